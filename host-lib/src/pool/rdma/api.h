// SPDX-License-Identifier: Apache-2.0
//
// The part of rdma-core that the `rdma:` pool calls, found at run time: libmoult is loaded into VMMs that have no use
// for RDMA, and must not ask their hosts for its libraries. Only its headers are needed to build. What is not here
// (posting, polling) is inline in <infiniband/verbs.h> and goes through the device's own table.
#ifndef MOULT_HOST_POOL_RDMA_API_H_
#define MOULT_HOST_POOL_RDMA_API_H_

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "absl/status/statusor.h"

namespace moult::host::rdma {

struct Api {
  decltype(&::rdma_create_event_channel) create_event_channel;
  decltype(&::rdma_destroy_event_channel) destroy_event_channel;
  decltype(&::rdma_create_id) create_id;
  decltype(&::rdma_destroy_id) destroy_id;
  decltype(&::rdma_bind_addr) bind_addr;
  decltype(&::rdma_resolve_addr) resolve_addr;
  decltype(&::rdma_resolve_route) resolve_route;
  decltype(&::rdma_create_qp) create_cm_qp;
  decltype(&::rdma_destroy_qp) destroy_cm_qp;
  decltype(&::rdma_init_qp_attr) init_qp_attr;
  decltype(&::rdma_connect) connect;
  decltype(&::rdma_listen) listen;
  decltype(&::rdma_accept) accept;
  decltype(&::rdma_reject) reject;
  decltype(&::rdma_disconnect) disconnect;
  decltype(&::rdma_get_cm_event) get_cm_event;
  decltype(&::rdma_ack_cm_event) ack_cm_event;
  decltype(&::rdma_set_option) set_option;
  decltype(&::rdma_event_str) event_str;
  decltype(&::ibv_get_device_list) get_device_list;
  decltype(&::ibv_free_device_list) free_device_list;
  decltype(&::ibv_query_device) query_device;
  decltype(&::ibv_alloc_pd) alloc_pd;
  decltype(&::ibv_dealloc_pd) dealloc_pd;
  decltype(&::ibv_reg_mr_iova2) reg_mr;
  decltype(&::ibv_dereg_mr) dereg_mr;
  decltype(&::ibv_create_comp_channel) create_comp_channel;
  decltype(&::ibv_destroy_comp_channel) destroy_comp_channel;
  decltype(&::ibv_create_cq) create_cq;
  decltype(&::ibv_destroy_cq) destroy_cq;
  decltype(&::ibv_get_cq_event) get_cq_event;
  decltype(&::ibv_ack_cq_events) ack_cq_events;
  decltype(&::ibv_create_qp) create_qp;
  decltype(&::ibv_destroy_qp) destroy_qp;
  decltype(&::ibv_modify_qp) modify_qp;
  decltype(&::ibv_query_qp) query_qp;
  decltype(&::ibv_wc_status_str) wc_status_str;
};

// Loaded once, and never unloaded. kFailedPrecondition: the libraries are not installed.
absl::StatusOr<const Api*> LoadApi();

// The same where the host has a device. kFailedPrecondition says what to do.
absl::StatusOr<const Api*> LoadApiWithDevice();

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_API_H_
