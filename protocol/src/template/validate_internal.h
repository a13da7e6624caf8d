// SPDX-License-Identifier: Apache-2.0
//
// The parts of ValidateImage, one file each. Every one returns OK or kDataLoss with the field's path.
#ifndef MOULT_TEMPLATE_VALIDATE_INTERNAL_H_
#define MOULT_TEMPLATE_VALIDATE_INTERNAL_H_

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/schema.h"

namespace moult::image::validate {

// Where we are in the image. A chain on the stack, made into text only when something is wrong.
class Path {
 public:
  explicit Path(const char* name) : parent_(nullptr), name_(name) {}
  Path(const Path& parent, const char* name) : parent_(&parent), name_(name) {}
  Path(const Path& parent, const char* name, size_t index)
      : parent_(&parent), name_(name), index_(index), indexed_(true) {}
  Path(const Path&) = delete;
  Path& operator=(const Path&) = delete;

  std::string Text() const {
    const std::string prefix = parent_ == nullptr ? "" : parent_->Text();
    const char* separator = parent_ == nullptr ? "" : parent_->parent_ == nullptr ? ": " : ".";
    return absl::StrCat(prefix, separator, name_, indexed_ ? absl::StrCat("[", index_, "]") : "");
  }
  template <typename... Args>
  absl::Status Bad(const Args&... what) const {
    return absl::DataLossError(absl::StrCat(Text(), ": ", what...));
  }
  // The same for a field of this table.
  template <typename... Args>
  absl::Status BadField(const char* field, const Args&... what) const {
    return Path(*this, field).Bad(what...);
  }

 private:
  const Path* parent_;
  const char* name_;
  size_t index_ = 0;
  bool indexed_ = false;
};

// At most `limit` elements, none of them missing.
template <typename T>
absl::Status CheckCount(const Path& at, const char* field, const std::vector<T>& list, size_t limit) {
  if (list.size() > limit) return at.BadField(field, list.size(), " elements, over the limit of ", limit);
  if constexpr (requires(const T& item) { item.get(); }) {
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i] == nullptr) return Path(at, field, i).Bad("missing");
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckIndex(const Path& at, const char* field, uint32_t index, const std::vector<T>& list,
                        const char* list_name) {
  if (index < list.size()) return absl::OkStatus();
  return at.BadField(field, index, " names nothing in ", list_name, ", which has ", list.size());
}

// `index` names a file of type `type` (S_IFREG, ...).
absl::Status CheckFile(const Path& at, const char* field, uint32_t index, const ProcessImageT& image,
                       mode_t type);
absl::Status CheckText(const Path& at, const char* field, const std::string& text, size_t limit);

template <typename E>
bool InRange(E value, E max) {
  return static_cast<unsigned>(value) <= static_cast<unsigned>(max);
}

inline constexpr size_t kSignals = 64;
inline constexpr uint64_t kMaxFileOffset = INT64_MAX;  // loff_t

inline bool PageAligned(uint64_t value) { return value % kPageSize == 0; }

// Rising, disjoint, whole pages, up to `end`; content inside `pages`.
absl::Status CheckRuns(const Path& at, const char* field, const std::vector<PageRun>& runs, uint64_t end,
                       uint64_t pages_size);
absl::Status CheckPending(const Path& at, const std::vector<std::unique_ptr<PendingSignalT>>& pending);

absl::Status CheckFiles(const Path& at, const ProcessImageT& image);
absl::Status CheckPrivateFiles(const Path& at, const ProcessImageT& image, uint64_t pages_size);
absl::Status CheckObjects(const Path& at, const ProcessImageT& image, uint64_t pages_size);
absl::Status CheckPipes(const Path& at, const ProcessImageT& image);
absl::Status CheckOpenFiles(const Path& at, const ProcessImageT& image);
absl::Status CheckSocket(const Path& at, const ProcessImageT& image, uint32_t self,
                         const UnixSocketT& socket);
absl::Status CheckSocket(const Path& at, const InetSocketT& socket);
absl::Status CheckMemory(const Path& at, const ProcessImageT& image, const MemoryMapT& memory,
                         uint64_t pages_size);
absl::Status CheckThread(const Path& at, const ProcessT& process, const ThreadT& thread);
absl::Status CheckProcess(const Path& at, const ProcessImageT& image, const ProcessT& process,
                          uint64_t pages_size);

}  // namespace moult::image::validate

#endif  // MOULT_TEMPLATE_VALIDATE_INTERNAL_H_
