// SPDX-License-Identifier: Apache-2.0
//
// The restore of a template as syscall programs, worked out once in the tool and used for every process made
// from it. The programs run inside the new process when nothing of ours but their region is mapped there.
#ifndef MOULT_IMAGE_PLAN_H_
#define MOULT_IMAGE_PLAN_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "image/host.h"
#include "image/page_source.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/schema.h"
#include "proc/maps.h"
#include "ptrace/program_builder.h"
#include "ptrace/remote_ptr.h"

namespace moult::engine {

class Sandbox;

// Numbers of the descriptors that a restore needs for itself, all above those of the function.
struct FdNumbers {
  int first;                             // everything from here on is ours
  PageSource pages;
  std::map<std::pair<uint32_t, bool>, int> files;  // (file index, writable) of mapped files and the exe
  int objects_rw;                        // object i at objects_rw + i
  int objects_ro;                        // the same, opened read-only
  int free;                              // first number without a meaning
  bool operator==(const FdNumbers&) const = default;
};

// Descriptors that the tool opens once; they lie at the numbers above.
struct OpenedFiles {
  FdNumbers numbers;
  std::vector<UniqueFd> held;
};

// By the names that they have in `sandbox`, null: here. Numbers begin at `first`, or where they can.
absl::StatusOr<OpenedFiles> OpenMappedFiles(const image::ProcessImageT& image, const PageSource& pages, const Sandbox* sandbox,
                                            int first = 0);

// State of the builder's own threads and memory, which the programs start from.
struct Starting {
  std::vector<proc::MapsEntry> maps;     // the tool's: a fork has the same
  image::SchedulingT scheduling;
  image::CredentialsT credentials;
  std::vector<image::Limit> limits;
  uint32_t personality = 0;
  bool child_subreaper = false;
  bool thp_disable = false;
};
absl::StatusOr<Starting> DescribeSelf();
// Parts of it that others can change.
absl::StatusOr<image::SchedulingT> OwnScheduling();
std::vector<image::Limit> OwnLimits();  // by resource number

// Where things lie in the region: the same offsets in the builder (at `address`) and in the tool's view.
struct RegionLayout {
  ptrace::RemotePtr address;
  size_t control = 0;                    // struct Control
  size_t blob = 0;
  size_t leader_stack_top = 0;
  size_t leader_program = 0;
  struct ThreadArea {
    size_t stack_top;                    // of thread i + 1
    size_t program;
    size_t clone_args;
    size_t set_tid;
  };
  std::vector<ThreadArea> threads;
  std::vector<size_t> late_programs;     // per thread, 0: none
  std::vector<size_t> scratch;           // per thread: 64 bytes for the tool
  size_t size = 0;
};

// Where the program notes when it began and ended to fill memory with content (data offsets of a timespec).
struct FillTimes {
  size_t begin;
  size_t end;
};

struct Plan {
  FillTimes fill{};
  ptrace::ProgramBuilder leader;
  std::vector<ptrace::ProgramBuilder> threads;  // of threads 1..n-1
  std::vector<ptrace::ProgramBuilder> late;     // per thread: run under ptrace (seccomp, credentials)
  RegionLayout layout;
};

absl::StatusOr<Plan> MakePlan(const image::ProcessImageT& image, const FdNumbers& numbers, const Starting& starting);

// Writes parasite, programs and stacks into the tool's view of the region (layout.size bytes of zeros).
void WriteRegion(const image::ProcessT& process, const Plan& plan, std::byte* view);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PLAN_H_
