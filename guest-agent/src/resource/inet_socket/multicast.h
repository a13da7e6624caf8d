// SPDX-License-Identifier: Apache-2.0
//
// The multicast groups that a UDP socket has joined, and whose datagrams to them it takes. The kernel lists the groups
// of an interface only, but tells of each whether a socket is in it (MCAST_MSFILTER). They are kept as the options by
// which a socket joins them: MCAST_JOIN_GROUP, and MCAST_MSFILTER where it does not take all senders.
#ifndef MOULT_RESOURCE_INET_SOCKET_MULTICAST_H_
#define MOULT_RESOURCE_INET_SOCKET_MULTICAST_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

// Behind the options that are there. What the format cannot hold is noted.
absl::Status CaptureMemberships(CaptureContext& context, const OpenDescription& description, image::InetSocketT& socket_image);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_INET_SOCKET_MULTICAST_H_
