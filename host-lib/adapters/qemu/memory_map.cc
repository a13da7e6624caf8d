// SPDX-License-Identifier: Apache-2.0
#include "memory_map.h"

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::qemu {
namespace {

constexpr uint64_t kPageMask = 4095;

struct Found {
  Object* object;
  Backend backend;
  bool shared;
};

absl::StatusOr<Found> FindBackend(const Api& api, const std::string& id) {
  Object* object = api.object_resolve_path(absl::StrCat("/objects/", id).c_str(), nullptr);
  if (object == nullptr || api.object_dynamic_cast(object, "memory-backend") == nullptr) {
    return absl::NotFoundError(absl::StrCat("QEMU has no memory backend \"", id,
                                            "\"; start it with -object memory-backend-...,id=", id));
  }
  Found found{.object = object, .backend = {.id = id}, .shared = false};
  Error* error = nullptr;
  found.shared = api.object_property_get_bool(object, "share", &error);
  if (error != nullptr) api.error_free(error);
  // SAFETY: object_dynamic_cast said that it is one; QOM objects begin with their parents.
  Backend& backend = found.backend;
  backend.region = api.host_memory_backend_get_memory(reinterpret_cast<HostMemoryBackend*>(object));
  backend.hva = api.memory_region_get_ram_ptr(backend.region);
  backend.length = api.memory_region_size(backend.region);
  backend.fd = api.memory_region_get_fd(backend.region);
  return found;
}

struct Walk {
  const std::vector<Backend>* backends;
  std::vector<Placed> placed;
};

bool Visit(Int128 start, Int128 length, const MemoryRegion* region, uint64_t offset, void* opaque) {
  Walk& walk = *static_cast<Walk*>(opaque);
  for (const Backend& backend : *walk.backends) {
    if (backend.region != region) continue;
    const Placed part{static_cast<uint64_t>(start), static_cast<uint64_t>(length), &backend, offset};
    if (((part.gpa | part.length | part.offset) & kPageMask) != 0) continue;
    if (!walk.placed.empty()) {
      Placed& last = walk.placed.back();
      if (last.backend == &backend && last.gpa + last.length == part.gpa &&
          last.offset + last.length == part.offset) {
        last.length += part.length;
        continue;
      }
    }
    walk.placed.push_back(part);
  }
  return false;
}

}  // namespace

absl::StatusOr<Backend> FindRam(const Api& api, const std::string& id) {
  MOULT_ASSIGN_OR_RETURN(const Found found, FindBackend(api, id));
  const std::string type = api.object_get_typename(found.object);
  // A private mapping of a memfd keeps two copies of a page and loses the wrong one when it is discarded; an
  // anonymous shared one has no descriptor with which to free pages.
  const bool memfd = type == "memory-backend-memfd" && found.shared && found.backend.fd >= 0;
  const bool anonymous = type == "memory-backend-ram" && !found.shared && found.backend.fd < 0;
  if (!memfd && !anonymous) {
    return absl::FailedPreconditionError(
        absl::StrCat("RAM \"", id, "\" is a ", type, " with share=", found.shared ? "on" : "off",
                     ", whose pages cannot be given back safely; use memory-backend-memfd,share=on "
                     "(or memory-backend-ram,share=off)"));
  }
  return found.backend;
}

absl::StatusOr<Backend> FindWindow(const Api& api, const std::string& id) {
  MOULT_ASSIGN_OR_RETURN(const Found found, FindBackend(api, id));
  return found.backend;
}

std::vector<Placed> Locate(const Api& api, const std::vector<Backend>& backends) {
  Walk walk{.backends = &backends, .placed = {}};
  FlatView* view = api.address_space_get_flatview(api.address_space_memory);
  api.flatview_for_each_range(view, Visit, &walk);
  api.flatview_unref(view);
  return std::move(walk.placed);
}

std::vector<moult_region> Regions(const std::vector<Placed>& ram) {
  std::vector<moult_region> regions;
  for (const Placed& part : ram) {
    regions.push_back({.gpa = part.gpa,
                       .hva = static_cast<char*>(part.backend->hva) + part.offset,
                       .length = part.length,
                       .fd_offset = part.offset,
                       .fd = part.backend->fd,
                       .flags = 0});
  }
  return regions;
}

std::vector<moult_window> Windows(const std::vector<Backend>& windows) {
  std::vector<moult_window> result;
  for (const Backend& window : windows) {
    // The firmware places the BAR after this was asked, and the guest may move it: the agent tells where it
    // is.
    result.push_back({.gpa = 0,
                      .hva = window.hva,
                      .length = window.length,
                      .number = static_cast<uint32_t>(result.size()),
                      .flags = 0});
  }
  return result;
}

}  // namespace moult::qemu
