// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/verbs.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host::rdma {
namespace {

bool CanFault(ibv_context* device, int access) {
  // Not ibv_query_device_ex(), whose inline part wants a symbol of the library.
  verbs_context* const context = verbs_get_ctx_op(device, query_device_ex);
  ibv_device_attr_ex attributes{};
  const uint32_t needs =
      IBV_ODP_SUPPORT_READ | ((access & IBV_ACCESS_REMOTE_WRITE) != 0 ? unsigned{IBV_ODP_SUPPORT_WRITE} : 0u);
  if (context == nullptr || context->query_device_ex(device, nullptr, &attributes, sizeof attributes) != 0) return false;
  return (attributes.odp_caps.general_caps & IBV_ODP_SUPPORT) != 0 &&
         (attributes.odp_caps.per_transport_caps.rc_odp_caps & needs) == needs;
}

absl::StatusOr<MemoryRegion> RegisterAt(ibv_pd* domain, absl::Span<std::byte> bytes, uint64_t address, int access) {
  MOULT_ASSIGN_OR_RETURN(const Api* api, LoadApi());
  const auto flags = static_cast<unsigned>(access);
  MemoryRegion region;
  if (CanFault(domain->context, access)) {
    region.reset(api->reg_mr(domain, bytes.data(), bytes.size(), address, flags | IBV_ACCESS_ON_DEMAND));
  }
  if (region == nullptr) region.reset(api->reg_mr(domain, bytes.data(), bytes.size(), address, flags));
  if (region != nullptr) return region;
  const int error = errno;
  const std::string what = absl::StrCat("rdma: register ", bytes.size(), " bytes");
  if (error != ENOMEM && error != EAGAIN) return ErrnoStatus(error, what);
  return absl::ResourceExhaustedError(
      absl::StrCat(WithoutRemedy(ErrnoStatus(error, what)), "; raise the limit of locked memory (ulimit -l), or run with CAP_IPC_LOCK"));
}

}  // namespace

int MillisecondsTo(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
}

absl::StatusOr<Memory> Memory::Map(size_t size, const char* what) {
  void* const address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return ErrnoStatus(absl::StrCat("rdma: map ", size, " bytes for ", what));
  madvise(address, size, MADV_HUGEPAGE);  // Fewer entries for the device; without, it only takes more.
  // A child's copy would make the parent's next write go to a page that the device does not have.
  madvise(address, size, MADV_DONTFORK);
  Memory memory;
  memory.bytes_ = {static_cast<std::byte*>(address), size};
  return memory;
}

Memory::~Memory() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

absl::StatusOr<MemoryRegion> Register(ibv_pd* domain, absl::Span<std::byte> bytes, int access) {
  return RegisterAt(domain, bytes, 0, access);
}

absl::StatusOr<MemoryRegion> RegisterLocal(ibv_pd* domain, absl::Span<std::byte> bytes) {
  // SAFETY: as a number alone, for the device to call the memory by.
  return RegisterAt(domain, bytes, reinterpret_cast<uint64_t>(bytes.data()), IBV_ACCESS_LOCAL_WRITE);
}

}  // namespace moult::host::rdma
