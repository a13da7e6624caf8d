// SPDX-License-Identifier: Apache-2.0
//
// The `file:` pool: a folder with a folder for each template. Shared by processes through the file system
// alone: what is there is whole, because it came by rename, and stays, because nothing writes to it.
#ifndef MOULT_HOST_POOL_FILE_STORE_H_
#define MOULT_HOST_POOL_FILE_STORE_H_

#include <sys/stat.h>

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/template_reader.h"
#include "moult/protocol/template_writer.h"
#include "pool/file/sealed_pages.h"
#include "pool/transfer_progress.h"

namespace moult::host {

class DirectPages;
class RemotePages;

// A template that was checked as far as it says. Immutable; keeps its files open.
struct Template {
  std::string name;
  std::string digest;  // hex, of the manifest
  std::shared_ptr<const image::TemplateReader> reader;
  std::shared_ptr<const rpc::FunctionSpecT> spec;  // null: it does not say how it is run
  // Of Get: what is to be mapped. Null: it could not be shared, and the file is mapped.
  std::shared_ptr<const SealedPages> sealed;
  // Not null: it lies in a pool elsewhere, and what the host has of its pages is behind pages_fd(). See remote/.
  std::shared_ptr<RemotePages> remote;
  // Not null: its pages lie in memory, where they are mapped from; they were checked. There is no pages_fd()
  // then.
  std::shared_ptr<const DirectPages> direct;
  int pages_fd() const;
  const std::string& tenant() const { return reader->manifest().tenant; }
};

// What a reader that has checked manifest and image makes of them. `where`: for messages.
absl::StatusOr<std::shared_ptr<Template>> MakeTemplate(const std::string& name, const std::string& where,
                                                       std::unique_ptr<image::TemplateReader> reader);

// A template on its way into the store. Nothing is left of it when it is destroyed unpublished.
class NewTemplate {
 public:
  image::TemplateWriter& writer() { return *writer_; }
  // Hashes, syncs, renames, seals: blocks on the disk.
  absl::Status Publish(const image::ProcessImageT& image, image::ManifestT manifest);

 private:
  friend class Store;
  NewTemplate(std::string dir, UniqueFd lock, std::unique_ptr<image::TemplateWriter> writer)
      : dir_(std::move(dir)), lock_(std::move(lock)), writer_(std::move(writer)) {}
  const std::string dir_;
  const UniqueFd lock_;  // shared: nobody sweeps while we write
  const std::unique_ptr<image::TemplateWriter> writer_;
};

// Safe for several threads. Every method blocks on the disk.
class Store {
 public:
  using Clock = std::chrono::steady_clock;

  static absl::StatusOr<std::shared_ptr<Store>> Open(const std::string& path, bool create);

  const std::string& path() const { return path_; }
  // Sorted. What is there by name; whether it is any good, Read says.
  absl::StatusOr<std::vector<std::string>> Names() const;
  // Manifest and image are checked, pages by size.
  absl::StatusOr<std::shared_ptr<const Template>> Read(const std::string& name) const;
  // The same and every page; remembered for as long as the files' identity and times are the same.
  absl::StatusOr<std::shared_ptr<const Template>> Get(const std::string& name);
  absl::Status Verify(const std::string& name) const;
  // With `digest`: only the one that has it. kNotFound: none, or another has the name by now.
  absl::Status Remove(const std::string& name, const std::string& digest = "");
  // kAlreadyExists. `format_version`: of a copy, whose digest is to stay, that of what is copied.
  absl::StatusOr<std::unique_ptr<NewTemplate>> Create(const std::string& name,
                                                      uint32_t format_version = image::kFormatVersion) const;
  // A copy of `content`, whose pages are checked; of one that lies on the same file system, where that can, without
  // room of its own: then `progress` is that of the check. kAlreadyExists; kDeadlineExceeded between two parts that are copied.
  absl::Status Add(const std::string& name, const Template& content, Clock::time_point deadline = Clock::time_point::max(),
                   const TransferProgress& progress = nullptr) const;
  // `spec` null, `tenant` null: as the template has it.
  absl::Status Import(const std::string& name, const std::string& from, const rpc::FunctionSpecT* spec,
                      const std::string* tenant) const;
  // A template of another host's, byte for byte, so that its digest stays. `pages` is hashed. kDataLoss: it is not whole.
  absl::Status ImportFiles(const std::string& name, std::string_view manifest, std::string_view image,
                           absl::Span<const std::byte> pages) const;

 private:
  // Which files these are, and when they last changed.
  using Identity = std::array<std::array<uint64_t, 7>, 3>;
  struct Cached {
    Identity identity;
    std::shared_ptr<const Template> content;
  };
  absl::Status Copy(const std::string& name, const image::TemplateReader& reader, const rpc::FunctionSpecT* spec,
                    const std::string* tenant, Clock::time_point deadline, const TransferProgress& progress) const;
  // `make_pages` makes the file of pages at that path; it is checked afterwards.
  absl::Status ImportWith(const std::string& name, std::string_view manifest, std::string_view image,
                          const std::function<absl::Status(const std::string& path)>& make_pages,
                          const TransferProgress& progress) const;
  explicit Store(std::string path) : path_(std::move(path)) {}
  absl::StatusOr<std::string> Dir(const std::string& name) const;
  absl::StatusOr<UniqueFd> Lock(int operation) const;
  void Sweep() const;
  static absl::StatusOr<Identity> Identify(const std::string& dir);

  const std::string path_;  // real path
  std::mutex mutex_;        // guards checked_
  std::map<std::string, Cached> checked_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_FILE_STORE_H_
