// SPDX-License-Identifier: Apache-2.0
#include "resource/fd/restore.h"

#include <fcntl.h>
#include <libgen.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "image/uninterrupted.h"
#include "resource/fd/kinds.h"
#include "resource/lock/restore.h"

namespace moult::engine {
namespace {

// Shared anonymous memory is a file that only its mappings lead to.
absl::StatusOr<UniqueFd> MakeSharedAnon(const image::MemoryObjectT& object) {
  const size_t size = (object.size + 4095) & ~uint64_t{4095};
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return ErrnoStatus("make shared anonymous memory");
  const auto start = reinterpret_cast<uint64_t>(memory);
  const std::string path = absl::StrFormat("/proc/self/map_files/%x-%x", start, start + size);
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  const int error = errno;
  munmap(memory, size);
  if (!fd.valid()) return ErrnoStatus(error, absl::StrCat("open ", path));
  return fd;
}

absl::StatusOr<UniqueFd> MakeMemfd(const image::MemoryObjectT& object) {
  UniqueFd fd(memfd_create(object.name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("memfd_create ", object.name));
  return fd;
}

absl::Status PlaceAt(int fd, int number) {
  if (dup3(fd, number, O_CLOEXEC) < 0) return ErrnoStatus(absl::StrCat("place descriptor ", number));
  return absl::OkStatus();
}

// Under its old name if that is free, so that /proc shows the same; the name lives for a moment only. At `number` when
// this returns true: what is opened next must not have a number that another one is to get.
absl::StatusOr<bool> MakeUnderOldName(const image::MemoryObjectT& object, int number) {
  const UniqueFd fd(open(object.name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return false;
  if (unlink(object.name.c_str()) < 0) return ErrnoStatus(absl::StrCat("unlink ", object.name));
  MOULT_RETURN_IF_ERROR(PlaceAt(fd.get(), number));
  return true;
}

absl::StatusOr<UniqueFd> MakeUnnamed(const image::MemoryObjectT& object) {
  std::string copy = object.name;
  const char* folder = dirname(copy.data());
  UniqueFd fd(open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("make the unlinked file ", object.name, " in ", folder));
  return fd;
}

bool IsUnlinked(const std::unique_ptr<image::MemoryObjectT>& object) { return object->kind == image::ObjectKind::UnlinkedFile; }

using Objects = std::vector<std::unique_ptr<image::MemoryObjectT>>;

absl::Status MakeUnderOldNames(const Objects& objects, int first_number, std::vector<bool>& made) {
  for (size_t i = 0; i < objects.size(); ++i) {
    if (!IsUnlinked(objects[i])) continue;
    MOULT_ASSIGN_OR_RETURN(made[i], MakeUnderOldName(*objects[i], first_number + static_cast<int>(i)));
  }
  return absl::OkStatus();
}

// All that had names, each at `first_number` and its index.
absl::Status MakeUnlinked(const Objects& objects, int first_number) {
  if (std::none_of(objects.begin(), objects.end(), IsUnlinked)) return absl::OkStatus();
  std::vector<bool> made(objects.size());
  // One helper for all: to start it costs more than what it does.
  MOULT_RETURN_IF_ERROR(Uninterrupted([&] { return MakeUnderOldNames(objects, first_number, made); }));
  for (size_t i = 0; i < objects.size(); ++i) {
    if (!IsUnlinked(objects[i]) || made[i]) continue;
    MOULT_ASSIGN_OR_RETURN(const UniqueFd fd, MakeUnnamed(*objects[i]));
    MOULT_RETURN_IF_ERROR(PlaceAt(fd.get(), first_number + static_cast<int>(i)));
  }
  return absl::OkStatus();
}

// At `number`, which an unlinked file has by now.
absl::Status MakeObject(const image::MemoryObjectT& object, int number) {
  absl::StatusOr<UniqueFd> made = absl::DataLossError("object of unknown kind");
  switch (object.kind) {
    case image::ObjectKind::SharedAnon:
      made = MakeSharedAnon(object);
      break;
    case image::ObjectKind::Memfd:
      made = MakeMemfd(object);
      break;
    case image::ObjectKind::UnlinkedFile:
      return absl::OkStatus();
  }
  MOULT_RETURN_IF_ERROR(made.status());
  return PlaceAt(made->get(), number);
}

const FdKind* KindOf(const image::OpenFileT& file) {
  for (const FdKind& kind : FdKinds()) {
    if (kind.type == file.resource.type) return &kind;
  }
  return nullptr;
}

absl::Status MakeOpenFile(RestoreContext& context, uint32_t index) {
  if (context.open_files[index].valid()) return absl::OkStatus();  // made together with its peer
  const FdKind* kind = KindOf(context.open_file(index));
  if (kind == nullptr) return absl::DataLossError("descriptor of unknown kind");
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, kind->restore(context, index));
  MOULT_ASSIGN_OR_RETURN(context.open_files[index], context.MoveUp(std::move(fd)));
  return absl::OkStatus();
}

bool IsOwnedByThread(const image::OpenFileT& file) { return file.owner != 0 && file.owner_type == F_OWNER_TID; }

absl::Status SetFlags(const image::OpenFileT& file, int fd) {
  if (file.resource.type == image::Resource::PathOnly) return absl::OkStatus();
  constexpr uint32_t kSettable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
  const int now = fcntl(fd, F_GETFL);
  if (now < 0) return ErrnoStatus("F_GETFL");
  // The owner first: O_ASYNC makes it matter.
  if (file.owner != 0 && !IsOwnedByThread(file)) {
    // A group is its own, which has another number when it led none.
    const pid_t id = file.owner_type == F_OWNER_PGRP ? getpgrp() : file.owner;
    if (id == 0) return absl::FailedPreconditionError("its signals go to a process group that a sandbox does not have; restore it without --sandbox");
    const f_owner_ex owner{static_cast<__pid_type>(file.owner_type), id};
    if (fcntl(fd, F_SETOWN_EX, &owner) < 0) return ErrnoStatus(absl::StrCat("F_SETOWN_EX to ", file.owner));
  }
  if (file.owner_signal != 0 && fcntl(fd, F_SETSIG, file.owner_signal) < 0) return ErrnoStatus("F_SETSIG");
  if ((static_cast<uint32_t>(now) & kSettable) != (file.flags & kSettable) &&
      fcntl(fd, F_SETFL, static_cast<int>((static_cast<uint32_t>(now) & ~kSettable) | (file.flags & kSettable))) < 0) {
    return ErrnoStatus(absl::StrFormat("F_SETFL to %#o", file.flags));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RestoreObjects(RestoreContext& context, const FdNumbers& numbers) {
  MOULT_RETURN_IF_ERROR(MakeUnlinked(context.image.objects, numbers.objects_rw));
  for (size_t i = 0; i < context.image.objects.size(); ++i) {
    const image::MemoryObjectT& object = *context.image.objects[i];
    const int writable = numbers.objects_rw + static_cast<int>(i);
    MOULT_RETURN_IF_ERROR(MakeObject(object, writable));
    MOULT_RETURN_IF_ERROR(Annotate(FillFile(object.size, object.runs, context.pages, writable), object.name));
    if (fchown(writable, object.uid, object.gid) < 0 || fchmod(writable, object.mode) < 0) return ErrnoStatus(absl::StrCat("set the owner of ", object.name));
    const UniqueFd read_only(open(absl::StrCat("/proc/self/fd/", writable).c_str(), O_RDONLY | O_CLOEXEC));
    if (!read_only.valid()) return ErrnoStatus(absl::StrCat("open ", object.name, " for reading"));
    MOULT_RETURN_IF_ERROR(PlaceAt(read_only.get(), numbers.objects_ro + static_cast<int>(i)));
    // A number that the programs know, so nothing here may close it.
    context.object_fds.push_back(writable);
  }
  return absl::OkStatus();
}

void PlanThreadOwners(const image::ProcessImageT& image, ptrace::ProgramBuilder& program) {
  const image::ProcessT& process = *image.processes.front();
  for (uint32_t i = 0; i < image.open_files.size(); ++i) {
    const image::OpenFileT& file = *image.open_files[i];
    if (!IsOwnedByThread(file)) continue;
    const auto at = std::find_if(process.fds.begin(), process.fds.end(), [i](const auto& fd) { return fd->open_file == i; });
    if (at == process.fds.end()) continue;  // in flight: refused at capture
    const f_owner_ex owner{static_cast<__pid_type>(file.owner_type), file.owner};
    program.Call(absl::StrCat("fd ", (*at)->number, ": F_SETOWN_EX to thread ", file.owner), SYS_fcntl,
                 {(*at)->number, F_SETOWN_EX, ptrace::Arg::Data(program.AddObject(owner))});
  }
}

absl::Status RestoreDescriptors(RestoreContext& context) {
  const auto count = static_cast<uint32_t>(context.image.open_files.size());
  context.first_numbers.assign(count, -1);
  for (const auto& fd : context.process.fds) {
    int& number = context.first_numbers[fd->open_file];
    if (number < 0) number = fd->number;  // they are in rising order
  }
  context.open_files.resize(count);
  context.pipes.resize(context.image.pipes.size());
  for (uint32_t i = 0; i < count; ++i) {
    MOULT_RETURN_IF_ERROR(context.WithFdName(MakeOpenFile(context, i), i));
  }
  for (const auto& fd : context.process.fds) {
    if (dup3(context.open_files[fd->open_file].get(), fd->number, fd->close_on_exec ? O_CLOEXEC : 0) < 0) {
      const absl::Status status = ErrnoStatus(absl::StrCat("place ", context.FdName(fd->open_file)));
      return absl::ResourceExhaustedError(absl::StrCat(WithoutRemedy(status), "; raise this tool's limit of open files (ulimit -n)"));
    }
  }
  for (uint32_t i = 0; i < count; ++i) {
    const FdKind* kind = KindOf(context.open_file(i));
    // At its own number: the kernel tells it with SIGIO (si_fd) as it was when O_ASYNC was set.
    const int number = context.first_numbers[i] < 0 ? context.open_files[i].get() : context.first_numbers[i];
    absl::Status status = SetFlags(context.open_file(i), number);
    if (status.ok() && kind->finish != nullptr) status = kind->finish(context, i);
    MOULT_RETURN_IF_ERROR(context.WithFdName(status, i));
  }
  // Last: while epoll sets are filled, numbers are borrowed and given back.
  for (uint32_t i = 0; i < count; ++i) MOULT_RETURN_IF_ERROR(context.WithFdName(RestoreLocks(context, i), i));
  return absl::OkStatus();
}

}  // namespace moult::engine
