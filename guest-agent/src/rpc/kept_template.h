// SPDX-License-Identifier: Apache-2.0
//
// What an Attach says of a template, and a template that a worker keeps to attach it again.
#ifndef MOULT_RPC_KEPT_TEMPLATE_H_
#define MOULT_RPC_KEPT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image/restore.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/message.h"
#include "moult/protocol/schema.h"

namespace moult::agent {

// What a template says of itself, checked as a folder's would be, but for digests of what the host has read.
struct Described {
  std::unique_ptr<image::ManifestT> manifest;
  std::unique_ptr<image::ProcessImageT> image;
};
absl::StatusOr<Described> Describe(const rpc::AttachT& attach);

// Which template, and where its pages are.
struct TemplateKey {
  std::vector<uint8_t> digest;  // empty: the host gave none, and nothing is like it
  uint32_t window = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  bool operator==(const TemplateKey&) const = default;
};
TemplateKey KeyOf(const rpc::AttachT& attach);
// The host says in short which one it means: it thinks that a worker keeps it.
inline bool IsShort(const rpc::AttachT& attach) { return attach.image.empty() && attach.manifest.empty() && !attach.digest.empty(); }

class KeptTemplate {
 public:
  // Of a request that is not short, with its pages in a window.
  static absl::StatusOr<std::unique_ptr<KeptTemplate>> Read(const rpc::AttachT& attach);
  KeptTemplate(const KeptTemplate&) = delete;
  KeptTemplate& operator=(const KeptTemplate&) = delete;

  const TemplateKey& key() const { return key_; }
  const image::ProcessImageT& image() const { return *described_.image; }
  engine::Restorer& restorer() { return restorer_; }
  // What a pipe or a socket held is content, like pages, and so is where a symbolic link of the function's leads: it goes
  // when the function has begun. Up to 8 bytes, by which an event loop is woken, are none. Names of files stay, as do the
  // registers, but not a folder full of them.
  bool MayStay() const;

 private:
  KeptTemplate(std::string name, TemplateKey key, UniqueFd driver, Described described);

  const std::string name_;
  const TemplateKey key_;
  const UniqueFd driver_;
  const Described described_;
  engine::Restorer restorer_;
};

}  // namespace moult::agent

#endif  // MOULT_RPC_KEPT_TEMPLATE_H_
