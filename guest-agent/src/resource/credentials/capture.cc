// SPDX-License-Identifier: Apache-2.0
#include "resource/credentials/capture.h"

namespace moult::engine {

std::unique_ptr<image::CredentialsT> CredentialsOf(const proc::Status& status) {
  auto credentials = std::make_unique<image::CredentialsT>();
  credentials->uids.assign(status.uid.begin(), status.uid.end());
  credentials->gids.assign(status.gid.begin(), status.gid.end());
  credentials->groups = status.groups;
  credentials->cap_inheritable = status.cap_inh;
  credentials->cap_permitted = status.cap_prm;
  credentials->cap_effective = status.cap_eff;
  credentials->cap_bounding = status.cap_bnd;
  credentials->cap_ambient = status.cap_amb;
  credentials->no_new_privs = status.no_new_privs;
  return credentials;
}

}  // namespace moult::engine
