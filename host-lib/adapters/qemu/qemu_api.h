// SPDX-License-Identifier: Apache-2.0
//
// The part of QEMU that the adapter calls: its own exported functions, found by name in the running process.
// The types are QEMU's; we never look inside, but where this file says so.
//
// What is known of which version (checked with 7.2.22 and 10.0.2, Debian's builds):
//
//   function                              7.2 to 7.x        8.0 to 10.0      10.1 on
//   object_resolve_path, _dynamic_cast,   same              same             same
//     _get_typename, _property_get_bool
//   host_memory_backend_get_memory        same              same             same
//   memory_region_*, address_space_*,     same              same             same
//     flatview_*
//   qemu_register_reset, notifiers        same              same             same
//   aio_bh_schedule_oneshot_full          same              same             same
//   tb_invalidate_phys_range              (start, end)      (start, last)    (cpu, start, last): not used
//
// So with 10.1 and newer the adapter works under KVM, and under TCG without a window (copy mode). Older than
// 7.2 is refused.
#ifndef MOULT_ADAPTERS_QEMU_QEMU_API_H_
#define MOULT_ADAPTERS_QEMU_QEMU_API_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace moult::qemu {

struct Object;
struct HostMemoryBackend;
struct MemoryRegion;
struct AddressSpace;
struct FlatView;
struct AioContext;
struct Error;

// include/qemu/notify.h: a function and the links of a list. The list's are QEMU's to write.
struct Notifier {
  void (*notify)(Notifier* self, void* data);
  void* next;
  void** previous;
};

// qapi/misc.json.
struct VersionTriple {
  int64_t major, minor, micro;
};
struct VersionInfo {
  VersionTriple* qemu;
  char* package;
};

__extension__ typedef __int128 Int128;
// Returns true to end the walk.
using FlatRangeCallback = bool (*)(Int128 start, Int128 length, const MemoryRegion* region, uint64_t offset,
                                   void* opaque);

struct Api {
  Object* (*object_resolve_path)(const char* path, bool* ambiguous);
  Object* (*object_dynamic_cast)(Object* object, const char* type);  // null when it is not one
  const char* (*object_get_typename)(const Object* object);
  bool (*object_property_get_bool)(Object* object, const char* name, Error** error);
  void (*error_free)(Error* error);
  MemoryRegion* (*host_memory_backend_get_memory)(HostMemoryBackend* backend);
  void* (*memory_region_get_ram_ptr)(MemoryRegion* region);
  uint64_t (*memory_region_size)(MemoryRegion* region);
  uint64_t (*memory_region_get_ram_addr)(MemoryRegion* region);
  int (*memory_region_get_fd)(MemoryRegion* region);  // -1: none
  AddressSpace* address_space_memory;
  FlatView* (*address_space_get_flatview)(AddressSpace* space);  // a reference, for flatview_unref
  void (*flatview_for_each_range)(FlatView* view, FlatRangeCallback callback, void* opaque);
  void (*flatview_unref)(FlatView* view);
  AioContext* (*qemu_get_aio_context)();
  // Any thread. The callback runs once, in the main loop, under the big lock.
  void (*aio_bh_schedule_oneshot_full)(AioContext* context, void (*callback)(void*), void* opaque,
                                       const char* name);
  void (*qemu_add_machine_init_done_notifier)(Notifier* notifier);
  void (*qemu_add_exit_notifier)(Notifier* notifier);
  void (*qemu_register_reset)(void (*reset)(void*), void* opaque);
  const char* (*current_accel_name)();
  bool (*ram_block_discard_is_disabled)();
  VersionInfo* (*qmp_query_version)(Error** error);
  void (*qapi_free_VersionInfo)(VersionInfo* version);
  // Optional: QEMU may be built without TCG.
  void (*tb_invalidate_phys_range)(uint64_t start, uint64_t end_or_last);
};

// Finds everything. kUnimplemented names all that is missing.
absl::StatusOr<Api> FindApi();

// The hook at which the adapter starts; null when this is no QEMU that exports it.
void (*FindInitDoneHook())(Notifier*);

struct Version {
  int64_t major = 0, minor = 0, micro = 0;
  auto operator<=>(const Version&) const = default;
  std::string text() const;
};

// In the main loop's thread. kUnimplemented for a version that is too old.
absl::StatusOr<Version> AskVersion(const Api& api);

// How tb_invalidate_phys_range is called. kUnimplemented: not known for this version, or not there.
enum class TbRange { kEndExclusive, kLastInclusive };
absl::StatusOr<TbRange> TbRangeOf(const Api& api, const Version& version);

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_QEMU_API_H_
