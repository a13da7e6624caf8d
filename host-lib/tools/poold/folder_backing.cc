// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backing.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"

namespace moult::poold {
namespace {

// Its templates are copied. The files are not mapped: one that is cut would end the process, and before Linux 6.2 pinning
// copies each page of a mapping that may not be written.
class FolderBacking final : public Backing {
 public:
  explicit FolderBacking(std::shared_ptr<host::Store> store) : store_(std::move(store)) {}

  absl::StatusOr<std::vector<Entry>> List() override {
    MOULT_ASSIGN_OR_RETURN(std::vector<std::string> names, store_->Names());
    std::vector<Entry> entries;
    for (std::string& name : names) {
      auto stamp = StampOf(name);
      if (stamp.ok()) entries.push_back({std::move(name), *std::move(stamp)});
    }
    return entries;
  }

  absl::StatusOr<std::string> StampOf(const std::string& name) override {
    const std::string file = absl::StrCat(store_->path(), "/", name, "/", image::kManifestFile);
    struct stat info;
    if (lstat(file.c_str(), &info) != 0) return errno == ENOENT ? NoTemplate(name) : ErrnoStatus(absl::StrCat("stat ", name));
    return absl::StrCat(info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec);
  }

  absl::StatusOr<Facts> Read(const std::string& name) override {
    MOULT_ASSIGN_OR_RETURN(std::string stamp, StampOf(name));
    MOULT_ASSIGN_OR_RETURN(const auto content, store_->Read(name));
    const image::TemplateReader& reader = *content->reader;
    return Facts{std::move(stamp), content->tenant(), image::Sha256Of(reader.manifest_file()),
                 {reader.pages_size(), reader.image_file().size(), reader.manifest_file().size()}};
  }

  absl::StatusOr<Holding> Load(const std::string& name, const Facts& facts, Place, Budget* budget) override {
    MOULT_ASSIGN_OR_RETURN(const auto content, store_->Read(name));
    const image::TemplateReader& reader = *content->reader;
    if (image::Sha256Of(reader.manifest_file()) != facts.digest) return BeingReplaced(name);
    MOULT_ASSIGN_OR_RETURN(Holding memory, Holding::Make(budget, facts.layout, "a template"));
    MOULT_RETURN_IF_ERROR(reader.ReadUnchecked(0, memory.pages()));
    MOULT_RETURN_IF_ERROR(DigestPages(name, reader.leaves(), memory));
    std::memcpy(memory.image().data(), reader.image_file().data(), memory.image().size());
    std::memcpy(memory.manifest().data(), reader.manifest_file().data(), memory.manifest().size());
    mprotect(memory.bytes().data(), memory.bytes().size(), PROT_READ);  // Against our own mistakes; all works without.
    return memory;
  }

  absl::Status Remove(const std::string& name) override { return store_->Remove(name); }

  absl::Status Add(const std::string& name, std::string_view manifest, std::string_view image,
                   absl::Span<const std::byte> pages) override {
    return store_->ImportFiles(name, manifest, image, pages);
  }

  absl::StatusOr<std::optional<uint64_t>> Capacity() override { return std::nullopt; }

 private:
  const std::shared_ptr<host::Store> store_;
};

}  // namespace

absl::Status NoTemplate(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("no template ", name, "; list the pool to see what is"));
}

absl::Status BeingReplaced(const std::string& name) {
  return absl::UnavailableError(absl::StrCat("template ", name, " is being replaced; try again"));
}

std::unique_ptr<Backing> BackByFolder(std::shared_ptr<host::Store> store) {
  return std::make_unique<FolderBacking>(std::move(store));
}

}  // namespace moult::poold
