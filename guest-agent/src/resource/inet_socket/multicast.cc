// SPDX-License-Identifier: Apache-2.0
#include "resource/inet_socket/multicast.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstring>

#include "moult/protocol/limits.h"
#include "proc/net_multicast.h"
#include "proc/read.h"
#include "resource/inet_socket/socket_options.h"

namespace moult::engine {
namespace {

constexpr size_t kMaxSenders = (image::kMaxOptionBytes - GROUP_FILTER_SIZE(0)) / sizeof(sockaddr_storage);

// As getsockopt(2) fills it in: the senders go on behind the first one.
struct SenderFilter {
  group_filter head;
  sockaddr_storage more[kMaxSenders - 1];
};
static_assert(offsetof(SenderFilter, more) == sizeof(group_filter));
static_assert(sizeof(SenderFilter) == GROUP_FILTER_SIZE(kMaxSenders));

struct GroupFile {
  const char* name;
  absl::StatusOr<std::vector<proc::MulticastGroup>> (*parse)(std::string_view text);
};
constexpr GroupFile kGroupFiles[] = {{"net/igmp", proc::ParseIgmp}, {"net/igmp6", proc::ParseIgmp6}};

absl::Status ReadGroups(CaptureContext& context) {
  if (context.multicast_groups.has_value()) return absl::OkStatus();
  std::vector<proc::MulticastGroup> groups;
  for (const GroupFile& file : kGroupFiles) {
    const auto text = proc::ReadFile(context.ProcPath(file.name));
    if (absl::IsNotFound(text.status())) continue;  // a kernel without it
    MOULT_RETURN_IF_ERROR(text.status());
    MOULT_ASSIGN_OR_RETURN(const auto listed, file.parse(*text));
    groups.insert(groups.end(), listed.begin(), listed.end());
  }
  context.multicast_groups = std::move(groups);
  return absl::OkStatus();
}

int LevelOf(const proc::MulticastGroup& group) { return group.family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6; }

sockaddr_storage GroupAddress(const proc::MulticastGroup& group) {
  sockaddr_storage storage;
  std::memset(&storage, 0, sizeof(storage));
  if (group.family == AF_INET) {
    sockaddr_in four{};
    four.sin_family = AF_INET;
    std::memcpy(&four.sin_addr, group.address.data(), sizeof(four.sin_addr));
    std::memcpy(&storage, &four, sizeof(four));
  } else {
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    std::memcpy(&six.sin6_addr, group.address.data(), sizeof(six.sin6_addr));
    std::memcpy(&storage, &six, sizeof(six));
  }
  return storage;
}

// Whether the socket is in the group, and then whom it listens to there.
absl::StatusOr<bool> AskFilter(int fd, const proc::MulticastGroup& group, SenderFilter& filter) {
  std::memset(&filter, 0, sizeof(filter));  // its padding too: it goes into the template
  filter.head.gf_interface = group.interface;
  filter.head.gf_group = GroupAddress(group);
  filter.head.gf_numsrc = kMaxSenders;
  socklen_t size = sizeof(filter);
  if (getsockopt(fd, LevelOf(group), MCAST_MSFILTER, &filter, &size) == 0) return true;
  // Not in it; or not of this kernel.
  if (errno == EADDRNOTAVAIL || errno == ENOPROTOOPT || errno == EOPNOTSUPP || errno == EINVAL) return false;
  return ErrnoStatus("MCAST_MSFILTER");
}

std::string FormatGroup(const proc::MulticastGroup& group) {
  char text[INET6_ADDRSTRLEN] = "?";
  inet_ntop(group.family, group.address.data(), text, sizeof(text));
  return absl::StrCat(text, " on interface ", group.interface);
}

}  // namespace

absl::Status CaptureMemberships(CaptureContext& context, const OpenDescription& description, image::InetSocketT& socket_image) {
  MOULT_RETURN_IF_ERROR(ReadGroups(context));
  OptionList& options = socket_image.options;
  for (const proc::MulticastGroup& group : *context.multicast_groups) {
    // An IPv6 socket can be in groups of both kinds.
    if (group.family == AF_INET6 && socket_image.family != AF_INET6) continue;
    SenderFilter filter;
    MOULT_ASSIGN_OR_RETURN(const bool joined, AskFilter(description.fd, group, filter));
    if (!joined) continue;
    if (filter.head.gf_numsrc > kMaxSenders || options.size() + 2 > image::kMaxSocketOptions) {
      context.Note(absl::StrCat("fd ", description.number, ": its membership of multicast group ", FormatGroup(group), " is lost"));
      continue;
    }
    group_req request;
    std::memset(&request, 0, sizeof(request));
    request.gr_interface = group.interface;
    request.gr_group = filter.head.gf_group;
    AppendOption(options, LevelOf(group), MCAST_JOIN_GROUP, &request, sizeof(request));
    // Who has joined gets what all senders send, until he says otherwise.
    if (filter.head.gf_fmode == MCAST_EXCLUDE && filter.head.gf_numsrc == 0) continue;
    AppendOption(options, LevelOf(group), MCAST_MSFILTER, &filter, GROUP_FILTER_SIZE(filter.head.gf_numsrc));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
