// SPDX-License-Identifier: Apache-2.0
#include "image/host.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <cpuid.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "moult/protocol/digest.h"
#include "proc/cpuinfo.h"
#include "proc/maps.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

// What a program chooses code paths by (CPUID). What only the kernel uses is no one's business.
constexpr std::string_view kIsaFlags[] = {
    "cx16",   "pni",     "ssse3",  "sse4_1", "sse4_2",    "popcnt", "avx",   "avx2",   "avx_vnni", "fma",   "bmi1",
    "bmi2",   "f16c",    "movbe",  "abm",    "aes",       "sha_ni", "gfni",  "vaes",   "vpclmulqdq", "pclmulqdq",
    "rdrand", "rdseed",  "adx",    "xsave",  "xsavec",    "erms",   "fsrm",  "rtm",    "hle",      "rdpid", "rdtscp",
    "fsgsbase", "clflushopt", "clwb", "movdiri", "movdir64b", "serialize", "lahf_lm", "3dnowprefetch", "prefetchwt1", "sse4a"};

uint64_t Xcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

uint32_t XsaveSize() {
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  __cpuid_count(0xd, 0, a, b, c, d);
  return b;
}

absl::StatusOr<Vdso> FindOwnVdso() {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile("/proc/self/maps"));
  MOULT_ASSIGN_OR_RETURN(const auto maps, proc::ParseMaps(text));
  for (const proc::MapsEntry& entry : maps) {
    if (entry.path == "[vdso]") return Vdso{entry.start, entry.end - entry.start};
  }
  return absl::FailedPreconditionError("this kernel gives processes no vdso; boot it without vdso=0");
}

absl::StatusOr<std::string_view> VdsoBytes() {
  MOULT_ASSIGN_OR_RETURN(const Vdso vdso, OwnVdso());
  // SAFETY: our own mapping, readable for as long as the process lives.
  return std::string_view(reinterpret_cast<const char*>(vdso.start), vdso.size);
}

absl::StatusOr<std::unique_ptr<image::RequirementsT>> Describe() {
  auto host = std::make_unique<image::RequirementsT>();
  utsname name{};
  uname(&name);
  host->arch = name.machine;
  host->page_size = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  host->kernel_release = name.release;
  MOULT_ASSIGN_OR_RETURN(const std::string_view vdso, VdsoBytes());
  const auto digest = image::Sha256Of(vdso);
  host->vdso_digest.assign(digest.begin(), digest.end());
  host->xsave_features = Xcr0();
  host->xsave_size = XsaveSize();
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadBeginning("/proc/cpuinfo"));
  MOULT_ASSIGN_OR_RETURN(const proc::CpuInfo cpu, proc::ParseCpuInfo(text));
  for (const std::string& flag : cpu.flags) {
    const bool known = std::find(std::begin(kIsaFlags), std::end(kIsaFlags), flag) != std::end(kIsaFlags);
    if (known || absl::StartsWith(flag, "avx512") || absl::StartsWith(flag, "amx_")) host->cpu_flags.push_back(flag);
  }
  return host;
}

absl::Status DoesNotFit(absl::string_view what, absl::string_view remedy) {
  return absl::FailedPreconditionError(absl::StrCat("template does not fit: ", what, "; capture the function ", remedy));
}

}  // namespace

// Of the process that asks, a fork of it among them: it does not move.
absl::StatusOr<Vdso> OwnVdso() {
  static const absl::StatusOr<Vdso> vdso = FindOwnVdso();
  return vdso;
}

absl::StatusOr<uint64_t> VdsoSyscallOffset() {
  MOULT_ASSIGN_OR_RETURN(const std::string_view bytes, VdsoBytes());
  const size_t at = bytes.find("\x0f\x05");
  if (at == std::string_view::npos) return absl::FailedPreconditionError("this kernel's vdso has no syscall instruction");
  return at;
}

std::string BootId() {
  auto id = proc::ReadFile("/proc/sys/kernel/random/boot_id");
  return id.ok() ? std::string(absl::StripSuffix(*id, "\n")) : "";
}

absl::StatusOr<std::unique_ptr<image::RequirementsT>> DescribeHost() {
  // It stays the same, also for forks, and to read and hash it takes some milliseconds of an emulated machine.
  static const auto* host = new absl::StatusOr<std::unique_ptr<image::RequirementsT>>(Describe());
  MOULT_RETURN_IF_ERROR(host->status());
  return std::make_unique<image::RequirementsT>(***host);
}

absl::Status CheckRequirements(const image::RequirementsT& wanted, const image::RequirementsT& host) {
  if (wanted.arch != host.arch) {
    return DoesNotFit(absl::StrCat("it is for ", wanted.arch, ", this machine is ", host.arch), "on a machine like this");
  }
  if (wanted.page_size != host.page_size) {
    return DoesNotFit(absl::StrCat("page size ", wanted.page_size, ", here ", host.page_size), "under a kernel like this");
  }
  if (wanted.vdso_digest != host.vdso_digest) {
    return DoesNotFit(absl::StrCat("the vdso of kernel ", wanted.kernel_release, " differs from that of ", host.kernel_release, " here"), "again under this kernel");
  }
  std::vector<std::string> missing;
  for (const std::string& flag : wanted.cpu_flags) {
    if (std::find(host.cpu_flags.begin(), host.cpu_flags.end(), flag) == host.cpu_flags.end()) missing.push_back(flag);
  }
  if (!missing.empty()) {
    return DoesNotFit(absl::StrCat("this CPU lacks ", absl::StrJoin(missing, ", ")), "on a CPU like this, or mask the features there");
  }
  if (wanted.xsave_features != host.xsave_features || wanted.xsave_size != host.xsave_size) {
    return DoesNotFit(absl::StrFormat("XSAVE layout %#x, %d bytes, here %#x, %d bytes", wanted.xsave_features, wanted.xsave_size, host.xsave_features, host.xsave_size),
                      "on a CPU and kernel like this");
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
