// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/dax_templates.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "pool/dax/dax_pages.h"
#include "pool/dax/open_dax.h"
#include "pool/uri.h"

namespace moult::host {
namespace {

class DaxTemplate final : public RemoteTemplate {
 public:
  explicit DaxTemplate(std::shared_ptr<const DaxPages> pages) : pages_(std::move(pages)) {}

  const std::string& manifest_file() const override {
    ReadFiles();
    return manifest_;
  }
  const std::string& image_file() const override {
    ReadFiles();
    return image_;
  }
  uint64_t pages_size() const override { return pages_->size(); }
  std::shared_ptr<const DirectPages> direct() const override { return pages_; }

  absl::Status Read(absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override {
    for (const PoolPiece& piece : pieces) {
      if (Clock::now() >= deadline) return absl::DeadlineExceededError("read pages: not done in time");
      MOULT_RETURN_IF_ERROR(pages_->Read(piece.offset, piece.to));
    }
    return absl::OkStatus();
  }

 private:
  // Not before somebody asks: of a template that is known only the pages are used.
  void ReadFiles() const {
    std::call_once(read_, [this] {
      manifest_ = pages_->manifest_file();
      image_ = pages_->image_file();
    });
  }

  const std::shared_ptr<const DaxPages> pages_;
  mutable std::once_flag read_;
  mutable std::string manifest_;
  mutable std::string image_;
};

// Each call opens the device anew: locks and holds are those of a description, and each call has its own.
class DaxTemplates final : public TemplatePool {
 public:
  DaxTemplates(std::string uri, std::string path) : uri_(std::move(uri)), path_(std::move(path)) {}

  const std::string& uri() const override { return uri_; }

  absl::StatusOr<std::vector<PoolEntry>> List(Clock::time_point) override {
    MOULT_ASSIGN_OR_RETURN(const OpenedDax dax, OpenDax(path_, /*writable=*/false));
    MOULT_ASSIGN_OR_RETURN(const DaxDirectory directory, dax.volume.Read());
    std::vector<PoolEntry> entries;
    for (const DaxEntry& entry : directory.entries) {
      entries.push_back({entry.name, image::DigestHex(entry.digest), entry.tenant,
                         entry.pages_size + entry.manifest_size + entry.image_size});
    }
    std::sort(entries.begin(), entries.end(),
              [](const PoolEntry& a, const PoolEntry& b) { return a.name < b.name; });
    return entries;
  }

  absl::StatusOr<std::shared_ptr<RemoteTemplate>> Open(const std::string& name,
                                                       Clock::time_point deadline) override {
    MOULT_ASSIGN_OR_RETURN(OpenedDax dax, OpenDax(path_, /*writable=*/false));
    MOULT_ASSIGN_OR_RETURN(DaxEntry entry, dax.volume.Take(name, deadline));
    MOULT_ASSIGN_OR_RETURN(
        auto pages, DaxPages::Open(std::move(dax.device), dax.volume.geometry(), std::move(entry), checked_));
    return std::make_shared<DaxTemplate>(std::move(pages));
  }

  absl::Status Push(const Template& content, Clock::time_point deadline, const TransferProgress& progress) override {
    MOULT_ASSIGN_OR_RETURN(OpenedDax dax, OpenDax(path_, /*writable=*/true));
    const image::TemplateReader& reader = *content.reader;
    DaxContent wanted{content.name,        content.tenant(),    reader.manifest_file(),
                      reader.image_file(), reader.pages_size(), {}};
    wanted.read_pages = [&reader](uint64_t at, absl::Span<std::byte> to) { return reader.ReadPages(at, to); };
    return Annotate(dax.volume.Add(wanted, deadline, progress), absl::StrCat("push ", content.name, " to ", uri_));
  }

  absl::Status Remove(const std::string& name, Clock::time_point deadline) override {
    MOULT_ASSIGN_OR_RETURN(OpenedDax dax, OpenDax(path_, /*writable=*/true));
    return dax.volume.Remove(name, deadline);
  }

  absl::StatusOr<PoolUse> Use(Clock::time_point) override {
    MOULT_ASSIGN_OR_RETURN(const OpenedDax dax, OpenDax(path_, /*writable=*/false));
    MOULT_ASSIGN_OR_RETURN(const DaxDirectory directory, dax.volume.Read());
    MOULT_ASSIGN_OR_RETURN(const DaxSpace space, dax.volume.Space());
    PoolUse use;
    use.used_bytes = space.used + space.held;
    use.limit_bytes = space.total;
    use.templates = directory.entries.size();
    use.held_bytes = space.held;
    use.medium = DaxKindText(dax.device->kind());
    return use;
  }

 private:
  const std::string uri_;
  const std::string path_;
  const std::shared_ptr<DaxChecked> checked_ = std::make_shared<DaxChecked>();
};

}  // namespace

absl::StatusOr<std::shared_ptr<TemplatePool>> OpenDaxTemplates(const PoolUri& uri, const PoolAccess&) {
  // What is wrong with it is said now, and not by the first call.
  const auto opened = OpenDax(uri.path, /*writable=*/false);
  if (!opened.ok()) return Annotate(opened.status(), absl::StrCat("pool ", uri.text));
  return std::make_shared<DaxTemplates>(uri.text, uri.path);
}

absl::Status FormatDaxTemplates(const PoolUri& uri, uint64_t size, bool force, Clock::time_point deadline) {
  struct stat info;
  const bool there = stat(uri.path.c_str(), &info) == 0;
  if (!there && size == 0) {
    return absl::NotFoundError(
        absl::StrCat("format ", uri.path, ": there is nothing; give --size MIB to make a file"));
  }
  const bool make = !there || (S_ISREG(info.st_mode) && info.st_size == 0 && size != 0);
  bool made = false;
  if (make) {
    MOULT_RETURN_IF_ERROR(PlanDax(size, kDaxBlock, kPage).status());
    MOULT_ASSIGN_OR_RETURN(made, DaxDevice::CreateFile(uri.path, size));
  } else if (S_ISREG(info.st_mode)) {
    // A hole that is written to when the disk is full would be a SIGBUS.
    const UniqueFd fd(open(uri.path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("format ", uri.path));
    const int error = info.st_size == 0 ? 0 : posix_fallocate(fd.get(), 0, info.st_size);
    if (error != 0) return ErrnoStatus(error, absl::StrCat("format ", uri.path, ": allocate ", info.st_size, " bytes"));
  }
  MOULT_ASSIGN_OR_RETURN(const auto device, DaxDevice::Open(uri.path, /*writable=*/true));
  const absl::Status formatted = FormatDax(device.get(), {.size = size, .force = force}, deadline);
  if (!formatted.ok() && made) unlink(uri.path.c_str());
  return formatted;
}

}  // namespace moult::host
