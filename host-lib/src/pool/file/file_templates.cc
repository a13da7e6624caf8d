// SPDX-License-Identifier: Apache-2.0
#include "pool/file/file_templates.h"

#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/parse.h"
#include "pool/bounded_template.h"
#include "pool/bounded_templates.h"
#include "pool/file/file_system.h"
#include "pool/uri.h"

namespace moult::host {
namespace {

uint64_t BytesOf(const image::TemplateReader& reader) {
  return reader.manifest_file().size() + reader.image_file().size() + reader.pages_size();
}

absl::Status CheckTime(Clock::time_point deadline, const std::string& what) {
  if (Clock::now() < deadline) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(what, ": not done in time"));
}

class FileTemplate final : public RemoteTemplate {
 public:
  FileTemplate(std::string where, std::shared_ptr<const Template> content)
      : where_(std::move(where)), content_(std::move(content)) {}

  const std::string& manifest_file() const override { return content_->reader->manifest_file(); }
  const std::string& image_file() const override { return content_->reader->image_file(); }
  uint64_t pages_size() const override { return content_->reader->pages_size(); }

  absl::Status Read(absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override {
    for (const PoolPiece& piece : pieces) {
      MOULT_RETURN_IF_ERROR(CheckTime(deadline, absl::StrCat("read pages of ", where_)));
      MOULT_RETURN_IF_ERROR(ReadPiece(piece));
    }
    return absl::OkStatus();
  }

  bool ReadNow(const PoolPiece& piece) override {
    iovec to = {piece.to.data(), piece.to.size()};
    return preadv2(content_->reader->pages_fd(), &to, 1, static_cast<off_t>(piece.offset), RWF_NOWAIT) ==
           static_cast<ssize_t>(piece.to.size());
  }

 private:
  absl::Status ReadPiece(const PoolPiece& piece) const {
    if (piece.offset > pages_size() || piece.to.size() > pages_size() - piece.offset) {
      return absl::OutOfRangeError(
          absl::StrCat("read pages of ", where_, ": past the end at ", pages_size()));
    }
    for (size_t done = 0; done < piece.to.size();) {
      const ssize_t n = pread(content_->reader->pages_fd(), piece.to.data() + done, piece.to.size() - done,
                              static_cast<off_t>(piece.offset + done));
      if (n > 0) {
        done += static_cast<size_t>(n);
      } else if (n == 0) {
        return absl::DataLossError(absl::StrCat("read pages of ", where_, ": the file was cut short"));
      } else if (errno == ESTALE) {
        return absl::NotFoundError(absl::StrCat("read pages of ", where_, ": it was removed"));
      } else if (errno == EIO || errno == ETIMEDOUT) {
        return absl::UnavailableError(absl::StrCat("read pages of ", where_, ": ", ErrnoName(errno)));
      } else if (errno != EINTR) {
        return ErrnoStatus(absl::StrCat("read pages of ", where_));
      }
    }
    return absl::OkStatus();
  }

  const std::string where_;
  const std::shared_ptr<const Template> content_;
};

class FileTemplates final : public TemplatePool {
 public:
  FileTemplates(std::string uri, std::shared_ptr<Store> store, std::shared_ptr<ServingThreads> threads)
      : uri_(std::move(uri)), store_(std::move(store)), threads_(std::move(threads)) {}

  const std::string& uri() const override { return uri_; }

  absl::StatusOr<std::vector<PoolEntry>> List(Clock::time_point deadline) override {
    MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, store_->Names());
    std::vector<PoolEntry> entries;
    for (const std::string& name : names) {
      MOULT_RETURN_IF_ERROR(CheckTime(deadline, absl::StrCat("list ", uri_)));
      const auto content = store_->Read(name);
      if (absl::IsNotFound(content.status())) continue;  // Removed meanwhile, or no template.
      // A damaged one is there, too.
      if (!content.ok())
        entries.push_back({name, "", "", 0});
      else
        entries.push_back({name, (*content)->digest, (*content)->tenant(), BytesOf(*(*content)->reader)});
    }
    return entries;
  }

  absl::StatusOr<std::shared_ptr<RemoteTemplate>> Open(const std::string& name, Clock::time_point) override {
    auto content = store_->Read(name);
    if (!content.ok()) return Annotate(content.status(), absl::StrCat("pool ", uri_));
    const std::string where = absl::StrCat(uri_, "/", name);
    std::shared_ptr<RemoteTemplate> file = std::make_shared<FileTemplate>(where, *std::move(content));
    if (threads_ == nullptr) return file;
    return std::make_shared<BoundedTemplate>(where, std::move(file), threads_);
  }

  absl::Status Push(const Template& content, Clock::time_point deadline, const TransferProgress& progress) override {
    return Annotate(store_->Add(content.name, content, deadline, progress), absl::StrCat("push ", content.name, " to ", uri_));
  }

  absl::Status Remove(const std::string& name, Clock::time_point) override { return store_->Remove(name); }

  absl::StatusOr<PoolUse> Use(Clock::time_point deadline) override {
    MOULT_ASSIGN_OR_RETURN(const std::vector<PoolEntry> entries, List(deadline));
    PoolUse use;
    for (const PoolEntry& entry : entries) use.used_bytes += entry.bytes;
    use.templates = entries.size();
    struct statvfs info;
    if (statvfs(store_->path().c_str(), &info) != 0)
      return ErrnoStatus(absl::StrCat("statvfs ", store_->path()));
    use.limit_bytes = use.used_bytes + static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
    return use;
  }

 private:
  const std::string uri_;
  const std::shared_ptr<Store> store_;
  const std::shared_ptr<ServingThreads> threads_;  // null: where it lies answers, or nobody waits but who reads
};

}  // namespace

absl::StatusOr<std::shared_ptr<TemplatePool>> OpenFileTemplates(const PoolUri& uri, const PoolAccess& access) {
  BoundedTemplates::Opener open = [uri, threads = access.threads]() -> absl::StatusOr<std::shared_ptr<TemplatePool>> {
    auto store = Store::Open(uri.path, /*create=*/false);
    if (!store.ok()) return Annotate(store.status(), absl::StrCat("pool ", uri.text));
    return std::make_shared<FileTemplates>(uri.text, *std::move(store), IsInMemory(uri.path) ? nullptr : threads);
  };
  // What is memory anyway answers.
  if (access.threads == nullptr || IsMountedInMemory(uri.path)) return open();
  return BoundedTemplates::Open(uri.text, std::move(open), access.threads);
}

}  // namespace moult::host
