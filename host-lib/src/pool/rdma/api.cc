// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/api.h"

#include <dlfcn.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

// Macros of the headers over the functions whose addresses are taken here.
#undef ibv_reg_mr_iova2

namespace moult::host::rdma {
namespace {

constexpr char kInstall[] = "; install librdmacm1 and ibverbs-providers";

class Finder {
 public:
  explicit Finder(void* library) : library_(library) {}
  template <typename Pointer>
  void Find(const char* name, Pointer* to) {
    // SAFETY: rdma-core's header, from which the type is taken, declares the symbol of this name.
    *to = reinterpret_cast<Pointer>(dlsym(library_, name));
    if (*to == nullptr) missing_.push_back(name);
  }
  const std::vector<std::string>& missing() const { return missing_; }

 private:
  void* const library_;
  std::vector<std::string> missing_;
};

absl::StatusOr<Api> Load() {
  // It brings libibverbs.so.1 along, and dlsym looks there too.
  void* const library = dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("rdma: ", dlerror(), kInstall));
  }
  Api api{};
  Finder finder(library);
  finder.Find("rdma_create_event_channel", &api.create_event_channel);
  finder.Find("rdma_destroy_event_channel", &api.destroy_event_channel);
  finder.Find("rdma_create_id", &api.create_id);
  finder.Find("rdma_destroy_id", &api.destroy_id);
  finder.Find("rdma_bind_addr", &api.bind_addr);
  finder.Find("rdma_resolve_addr", &api.resolve_addr);
  finder.Find("rdma_resolve_route", &api.resolve_route);
  finder.Find("rdma_create_qp", &api.create_cm_qp);
  finder.Find("rdma_destroy_qp", &api.destroy_cm_qp);
  finder.Find("rdma_init_qp_attr", &api.init_qp_attr);
  finder.Find("rdma_connect", &api.connect);
  finder.Find("rdma_listen", &api.listen);
  finder.Find("rdma_accept", &api.accept);
  finder.Find("rdma_reject", &api.reject);
  finder.Find("rdma_disconnect", &api.disconnect);
  finder.Find("rdma_get_cm_event", &api.get_cm_event);
  finder.Find("rdma_ack_cm_event", &api.ack_cm_event);
  finder.Find("rdma_set_option", &api.set_option);
  finder.Find("rdma_event_str", &api.event_str);
  finder.Find("ibv_get_device_list", &api.get_device_list);
  finder.Find("ibv_free_device_list", &api.free_device_list);
  finder.Find("ibv_query_device", &api.query_device);
  finder.Find("ibv_alloc_pd", &api.alloc_pd);
  finder.Find("ibv_dealloc_pd", &api.dealloc_pd);
  finder.Find("ibv_reg_mr_iova2", &api.reg_mr);
  finder.Find("ibv_dereg_mr", &api.dereg_mr);
  finder.Find("ibv_create_comp_channel", &api.create_comp_channel);
  finder.Find("ibv_destroy_comp_channel", &api.destroy_comp_channel);
  finder.Find("ibv_create_cq", &api.create_cq);
  finder.Find("ibv_destroy_cq", &api.destroy_cq);
  finder.Find("ibv_get_cq_event", &api.get_cq_event);
  finder.Find("ibv_ack_cq_events", &api.ack_cq_events);
  finder.Find("ibv_create_qp", &api.create_qp);
  finder.Find("ibv_destroy_qp", &api.destroy_qp);
  finder.Find("ibv_modify_qp", &api.modify_qp);
  finder.Find("ibv_query_qp", &api.query_qp);
  finder.Find("ibv_wc_status_str", &api.wc_status_str);
  if (!finder.missing().empty()) {
    return absl::FailedPreconditionError(absl::StrCat("rdma: librdmacm.so.1 and what it needs lack ",
                                                      absl::StrJoin(finder.missing(), ", "), kInstall));
  }
  return api;
}

}  // namespace

absl::StatusOr<const Api*> LoadApi() {
  static const absl::StatusOr<Api> api = Load();
  if (!api.ok()) return api.status();
  return &*api;
}

absl::StatusOr<const Api*> LoadApiWithDevice() {
  const auto api = LoadApi();
  if (!api.ok()) return api;
  int count = 0;
  ibv_device** const devices = (*api)->get_device_list(&count);
  if (devices != nullptr) (*api)->free_device_list(devices);
  if (devices == nullptr || count == 0) {
    return absl::FailedPreconditionError(
        "rdma: this host has no RDMA device, and TCP is no substitute; load the adapter's driver, or for trial make a "
        "software one: modprobe rdma_rxe rdma_ucm && rdma link add rxe0 type rxe netdev eth0");
  }
  return api;
}

}  // namespace moult::host::rdma
