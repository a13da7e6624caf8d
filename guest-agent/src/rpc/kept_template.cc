// SPDX-License-Identifier: Apache-2.0
#include "rpc/kept_template.h"

#include <string_view>
#include <utility>

#include "image/window.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/validate.h"

namespace moult::agent {
namespace {

constexpr size_t kWakeUpBytes = 8;
constexpr size_t kMaxKeptNames = 4096;

}  // namespace

absl::StatusOr<Described> Describe(const rpc::AttachT& attach) {
  const auto text = [](const std::vector<uint8_t>& bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  Described described;
  MOULT_ASSIGN_OR_RETURN(described.manifest, image::ParseManifest(text(attach.manifest)));
  // The host has checked its digest, and the way from there loses nothing: a hash of it would be a good part of an attach.
  if (described.manifest->image->size != attach.image.size())
    return absl::DataLossError(absl::StrCat("image: ", attach.image.size(), " bytes, the manifest says ",
                                            described.manifest->image->size));
  if (described.manifest->pages->size != attach.pages_size)
    return absl::DataLossError(absl::StrCat("pages: ", attach.pages_size, " bytes, the manifest says ",
                                            described.manifest->pages->size));
  MOULT_ASSIGN_OR_RETURN(described.image, image::ParseImage(text(attach.image)));
  MOULT_RETURN_IF_ERROR(image::ValidateImage(*described.image, attach.pages_size));
  MOULT_RETURN_IF_ERROR(image::ValidateMatch(*described.manifest, *described.image));
  return described;
}

TemplateKey KeyOf(const rpc::AttachT& attach) {
  if (attach.source != rpc::PageSource::Window || attach.digest.empty()) return {};
  return {attach.digest, attach.window, attach.window_offset, attach.pages_size};
}

KeptTemplate::KeptTemplate(std::string name, TemplateKey key, UniqueFd driver, Described described)
    : name_(std::move(name)),
      key_(std::move(key)),
      driver_(std::move(driver)),
      described_(std::move(described)),
      restorer_({name_, *described_.image, *described_.manifest, {driver_.get(), key_.offset, true, key_.window}}) {}

absl::StatusOr<std::unique_ptr<KeptTemplate>> KeptTemplate::Read(const rpc::AttachT& attach) {
  MOULT_ASSIGN_OR_RETURN(UniqueFd driver, engine::OpenWindow(attach.window, attach.window_offset, attach.pages_size));
  MOULT_ASSIGN_OR_RETURN(Described described, Describe(attach));
  TemplateKey key{attach.digest, attach.window, attach.window_offset, attach.pages_size};
  return std::unique_ptr<KeptTemplate>(
      new KeptTemplate(attach.name, std::move(key), std::move(driver), std::move(described)));
}

bool KeptTemplate::MayStay() const {
  size_t queued = 0;
  for (const auto& pipe : image().pipes) {
    for (const auto& packet : pipe->packets) queued += packet->data.size();
  }
  for (const auto& file : image().open_files) {
    const auto* socket = file->resource.AsUnixSocket();
    if (socket == nullptr) continue;
    for (const auto& message : socket->queue) queued += message->data.size();
  }
  size_t names = 0;
  for (const auto& file : image().private_files) {
    names += file->path.size();
    queued += file->target.size();
  }
  return !key_.digest.empty() && queued <= kWakeUpBytes && names <= kMaxKeptNames;
}

}  // namespace moult::agent
