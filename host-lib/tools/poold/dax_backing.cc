// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backing.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/template_reader.h"
#include "pool/dax/dax_pages.h"
#include "pool/dax/open_dax.h"

namespace moult::poold {
namespace {

using host::DaxEntry;
using host::OpenDax;
using host::OpenedDax;
using host::rdma::Layout;

constexpr auto kReadTime = std::chrono::seconds(60);   // to hold a template, and to check it
constexpr auto kWriteTime = std::chrono::seconds(60);  // other writers, and the device

host::DaxVolume::Clock::time_point In(std::chrono::seconds time) { return host::DaxVolume::Clock::now() + time; }

// Of a name that is used again.
std::string StampIn(const DaxEntry& entry) { return absl::StrCat(entry.id, "-", image::DigestHex(entry.digest)); }

Layout LayoutIn(const DaxEntry& entry) { return {entry.pages_size, entry.image_size, entry.manifest_size}; }

// Manifest and image; of the pages their number.
absl::StatusOr<std::shared_ptr<host::Template>> Check(const std::string& name, std::string manifest, std::string image,
                                                      uint64_t pages_size) {
  MOULT_ASSIGN_OR_RETURN(auto reader, image::TemplateReader::FromFiles(name, std::move(manifest), std::move(image), UniqueFd()));
  MOULT_ASSIGN_OR_RETURN(auto content, host::MakeTemplate(name, name, std::move(reader)));
  if (content->reader->pages_size() == pages_size) return content;
  return absl::DataLossError(absl::StrCat("template ", name, ": pages: ", pages_size, " bytes, the manifest says ",
                                          content->reader->pages_size()));
}

// Each call opens the device anew: locks and holds are those of a description.
class DaxBacking final : public Backing {
 public:
  explicit DaxBacking(std::string path) : path_(std::move(path)) {}

  absl::StatusOr<std::vector<Entry>> List() override {
    MOULT_ASSIGN_OR_RETURN(const OpenedDax dax, OpenDax(path_, /*writable=*/false));
    MOULT_ASSIGN_OR_RETURN(const host::DaxDirectory directory, dax.volume.Read());
    std::vector<Entry> entries;
    for (const DaxEntry& entry : directory.entries) entries.push_back({entry.name, StampIn(entry)});
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    return entries;
  }

  absl::StatusOr<std::string> StampOf(const std::string& name) override {
    MOULT_ASSIGN_OR_RETURN(const DaxEntry entry, Find(name));
    return StampIn(entry);
  }

  absl::StatusOr<Facts> Read(const std::string& name) override {
    MOULT_ASSIGN_OR_RETURN(const DaxEntry entry, Find(name));
    return Facts{StampIn(entry), entry.tenant, entry.digest, LayoutIn(entry)};
  }

  absl::StatusOr<Holding> Load(const std::string& name, const Facts& facts, Place place, Budget* budget) override {
    const auto deadline = In(kReadTime);
    // As what is shown must be mapped to be registered: holding.h.
    MOULT_ASSIGN_OR_RETURN(OpenedDax dax, OpenDax(path_, /*writable=*/true));
    MOULT_ASSIGN_OR_RETURN(DaxEntry entry, dax.volume.Take(name, deadline));
    if (StampIn(entry) != facts.stamp || LayoutIn(entry) != facts.layout) return BeingReplaced(name);
    MOULT_ASSIGN_OR_RETURN(const auto pages,
                           host::DaxPages::Open(std::move(dax.device), dax.volume.geometry(), std::move(entry), checked_));
    const std::string manifest = pages->manifest_file(), image = pages->image_file();
    if (image::Sha256Of(manifest) != facts.digest) {
      return absl::DataLossError(absl::StrCat("template ", name, ": its manifest is damaged; remove it, and push it again"));
    }
    MOULT_ASSIGN_OR_RETURN(const auto content, Check(name, manifest, image, pages->size()));
    MOULT_RETURN_IF_ERROR(pages->Verify(content->reader->leaves(), deadline));

    // A device maps large pieces only: what is behind the last one is copied. A mapping holds the template, with or without `pages`.
    const uint64_t shown = place == Place::kWhereItLies ? pages->size() / pages->align() * pages->align() : 0;
    MOULT_ASSIGN_OR_RETURN(Holding memory, Holding::Make(budget, facts.layout, "a template", shown, pages->align()));
    MOULT_RETURN_IF_ERROR(pages->MapShared(memory.bytes().data(), shown));
    MOULT_RETURN_IF_ERROR(pages->Read(shown, memory.pages().subspan(shown)));
    MOULT_RETURN_IF_ERROR(DigestPages(name, content->reader->leaves(), memory));
    std::memcpy(memory.image().data(), image.data(), memory.image().size());
    std::memcpy(memory.manifest().data(), manifest.data(), memory.manifest().size());
    return memory;
  }

  absl::Status Remove(const std::string& name) override {
    MOULT_ASSIGN_OR_RETURN(OpenedDax dax, OpenDax(path_, /*writable=*/true));
    return dax.volume.Remove(name, In(kWriteTime));
  }

  absl::Status Add(const std::string& name, std::string_view manifest, std::string_view image,
                   absl::Span<const std::byte> pages) override {
    MOULT_ASSIGN_OR_RETURN(const auto content, Check(name, std::string(manifest), std::string(image), pages.size()));
    for (uint64_t at = 0; at < pages.size(); at += image::kPagesChunk) {
      if (content->reader->leaves().Match(pages.subspan(at, image::kPagesChunk), at / image::kPagesChunk)) continue;
      return absl::DataLossError(absl::StrCat("template ", name, ": pages: chunk ", at / image::kPagesChunk,
                                              " does not match its digest; push it again"));
    }
    MOULT_ASSIGN_OR_RETURN(OpenedDax dax, OpenDax(path_, /*writable=*/true));
    host::DaxContent wanted{name, content->tenant(), manifest, image, pages.size(), {}};
    wanted.read_pages = [&](uint64_t at, absl::Span<std::byte> to) {
      std::memcpy(to.data(), pages.data() + at, to.size());
      return absl::OkStatus();
    };
    return dax.volume.Add(wanted, In(kWriteTime));
  }

  absl::StatusOr<std::optional<uint64_t>> Capacity() override {
    MOULT_ASSIGN_OR_RETURN(const OpenedDax dax, OpenDax(path_, /*writable=*/false));
    MOULT_ASSIGN_OR_RETURN(const host::DaxSpace space, dax.volume.Space());
    return space.total;
  }

 private:
  absl::StatusOr<DaxEntry> Find(const std::string& name) const {
    MOULT_ASSIGN_OR_RETURN(const OpenedDax dax, OpenDax(path_, /*writable=*/false));
    MOULT_ASSIGN_OR_RETURN(const host::DaxDirectory directory, dax.volume.Read());
    const DaxEntry* const entry = directory.Find(name);
    if (entry == nullptr) return NoTemplate(name);
    return *entry;
  }

  const std::string path_;
  const std::shared_ptr<host::DaxChecked> checked_ = std::make_shared<host::DaxChecked>();
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backing>> BackByDax(const std::string& path) {
  MOULT_RETURN_IF_ERROR(OpenDax(path, /*writable=*/true).status());  // What is wrong with it is said now.
  return std::make_unique<DaxBacking>(path);
}

}  // namespace moult::poold
