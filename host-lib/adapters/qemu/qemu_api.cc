// SPDX-License-Identifier: Apache-2.0
#include "qemu_api.h"

#include <dlfcn.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace moult::qemu {
namespace {

class Finder {
 public:
  template <typename Pointer>
  void Find(const char* name, Pointer* to, bool required = true) {
    // SAFETY: the symbol of this name has the type that the version table gives it.
    *to = reinterpret_cast<Pointer>(dlsym(RTLD_DEFAULT, name));
    if (*to == nullptr && required) missing_.push_back(name);
  }
  const std::vector<std::string>& missing() const { return missing_; }

 private:
  std::vector<std::string> missing_;
};

}  // namespace

absl::StatusOr<Api> FindApi() {
  Api api{};
  Finder finder;
#define MOULT_FIND(name) finder.Find(#name, &api.name)
  MOULT_FIND(object_resolve_path);
  MOULT_FIND(object_dynamic_cast);
  MOULT_FIND(object_get_typename);
  MOULT_FIND(object_property_get_bool);
  MOULT_FIND(error_free);
  MOULT_FIND(host_memory_backend_get_memory);
  MOULT_FIND(memory_region_get_ram_ptr);
  MOULT_FIND(memory_region_size);
  MOULT_FIND(memory_region_get_ram_addr);
  MOULT_FIND(memory_region_get_fd);
  MOULT_FIND(address_space_memory);
  MOULT_FIND(address_space_get_flatview);
  MOULT_FIND(flatview_for_each_range);
  MOULT_FIND(flatview_unref);
  MOULT_FIND(qemu_get_aio_context);
  MOULT_FIND(aio_bh_schedule_oneshot_full);
  MOULT_FIND(qemu_add_machine_init_done_notifier);
  MOULT_FIND(qemu_add_exit_notifier);
  MOULT_FIND(qemu_register_reset);
  MOULT_FIND(current_accel_name);
  MOULT_FIND(ram_block_discard_is_disabled);
  MOULT_FIND(qmp_query_version);
  MOULT_FIND(qapi_free_VersionInfo);
#undef MOULT_FIND
  finder.Find("tb_invalidate_phys_range", &api.tb_invalidate_phys_range, /*required=*/false);
  if (!finder.missing().empty()) {
    return absl::UnimplementedError(absl::StrCat(
        "this QEMU does not export ", absl::StrJoin(finder.missing(), ", "),
        "; use Debian's qemu-system-x86 (7.2 to 10.0), or one that is linked with -Wl,--export-dynamic"));
  }
  return api;
}

void (*FindInitDoneHook())(Notifier*) {
  void (*hook)(Notifier*) = nullptr;
  Finder().Find("qemu_add_machine_init_done_notifier", &hook);
  return hook;
}

std::string Version::text() const { return absl::StrCat(major, ".", minor, ".", micro); }

absl::StatusOr<Version> AskVersion(const Api& api) {
  VersionInfo* info = api.qmp_query_version(nullptr);
  const Version version{info->qemu->major, info->qemu->minor, info->qemu->micro};
  api.qapi_free_VersionInfo(info);
  if (version < Version{7, 2, 0}) {
    return absl::UnimplementedError(
        absl::StrCat("QEMU ", version.text(), " is too old for this adapter; use 7.2 or newer"));
  }
  return version;
}

absl::StatusOr<TbRange> TbRangeOf(const Api& api, const Version& version) {
  if (api.tb_invalidate_phys_range == nullptr) {
    return absl::UnimplementedError(
        "this QEMU does not export tb_invalidate_phys_range, without which a window does not work under TCG");
  }
  if (version < Version{8, 0, 0}) return TbRange::kEndExclusive;
  if (version < Version{10, 1, 0}) return TbRange::kLastInclusive;
  return absl::UnimplementedError(
      absl::StrCat("how QEMU ", version.text(), " forgets translated code is not known to this adapter; ",
                   "use KVM, or a QEMU from 7.2 to 10.0, or do without a window (copy mode)"));
}

}  // namespace moult::qemu
