// SPDX-License-Identifier: Apache-2.0
#include "window/window.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/guest_memory.h"
#include "memory/mapping_error.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::host {
namespace {

uint64_t SlotLength(uint64_t size) {
  return std::max((size + kSlotAlign - 1) / kSlotAlign * kSlotAlign, kSlotAlign);
}

// Whether there are copies among the pages of a private mapping. Also when that cannot be told, as of a DAX
// file, whose pages the kernel does not show as a file's.
bool IsWritten(const std::byte* start, uint64_t length) {
  constexpr uint64_t kThere = 3ull << 62;  // present, or swapped
  constexpr uint64_t kOfFile = 1ull << 61;
  const UniqueFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  std::vector<uint64_t> entries(length / kPage);
  const size_t size = entries.size() * sizeof(uint64_t);
  const auto at = static_cast<off_t>(reinterpret_cast<uint64_t>(start) / kPage * sizeof(uint64_t));
  if (!pagemap.valid() || pread(pagemap.get(), entries.data(), size, at) != static_cast<ssize_t>(size)) return true;
  return std::any_of(entries.begin(), entries.end(),
                     [](uint64_t entry) { return (entry & kThere) != 0 && (entry & kOfFile) == 0; });
}

}  // namespace

absl::StatusOr<uint64_t> Window::FindRoom(uint64_t length, uint64_t limit, uint64_t without) const {
  const uint64_t end = std::min(config_.length, limit);
  uint64_t at = 0;
  uint64_t largest = 0;
  for (const Slot& slot : slots_) {
    const bool only_user = slot.users.size() == 1 && slot.users.contains(without);
    if (only_user && slot.attaching == 0 && !slot.uncertain) continue;
    largest = std::max(largest, slot.offset - at);
    if (slot.offset - at >= length) return at;
    at = slot.offset + slot.length;
  }
  const uint64_t tail = at < end ? end - at : 0;
  if (tail >= length) return at;
  return absl::ResourceExhaustedError(
      absl::StrCat("window ", config_.number, " of ", end, " bytes: no free piece of ", length,
                   ", the largest has ", std::max(largest, tail),
                   "; detach functions of other templates, give the VM a larger window, or use copy mode"));
}

absl::Status Window::Show(Slot* slot, const SlotContent& content) {
  if (remote_ != nullptr) remote_->Forget(config_.hva + slot->offset);
  slot->remote = content.remote != nullptr;
  slot->direct = content.direct != nullptr;
  slot->read_only = slot->direct && !content.direct->writable();
  if (slot->direct) return ShowDirect(*slot, content);
  if (!slot->remote) return ShowFile(*slot, content);
  if (remote_ != nullptr) return remote_->Show(config_.hva + slot->offset, content.remote);
  return absl::FailedPreconditionError("nobody serves faults of this window");
}

absl::Status Window::ShowFile(const Slot& slot, const SlotContent& content) {
  const int fd = content.fd;
  const uint64_t size = content.size;
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus(absl::StrCat("stat pages of ", slot.template_name));
  if (static_cast<uint64_t>(info.st_size) < size) {
    return absl::DataLossError(absl::StrCat("template ", slot.template_name, ": pages: has ", info.st_size,
                                            " bytes, must have ", size));
  }
  // SAFETY: FindRoom keeps slots inside the window, which the embedder gave us whole, and apart from each
  // other. Private and writable: a guest that writes there gets copies of its own, the template stays. Not
  // past the end of the file, where an access would be a SIGBUS of the VMM.
  void* at = config_.hva + slot.offset;
  if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
    return MappingError(absl::StrCat("map ", size, " bytes of ", slot.template_name, " into window ",
                                     config_.number, " at offset ", slot.offset));
  }
  return absl::OkStatus();
}

absl::Status Window::ShowDirect(const Slot& slot, const SlotContent& content) {
  // SAFETY: as in ShowFile; it maps no more than the slot's length.
  const absl::Status mapped = content.direct->MapOver(config_.hva + slot.offset, slot.length);
  return Annotate(mapped, absl::StrCat("show ", slot.template_name, " in window ", config_.number,
                                       " at offset ", slot.offset));
}

absl::Status Window::Hide(const Slot& slot) {
  if (slot.remote) remote_->Forget(config_.hva + slot.offset);
  // SAFETY: as in Show. Fresh anonymous memory: reads as zero, keeps nothing of what was there.
  void* at = config_.hva + slot.offset;
  if (mmap(at, slot.length, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
           -1, 0) == MAP_FAILED) {
    return MappingError(absl::StrCat("empty window ", config_.number, " at offset ", slot.offset));
  }
  return absl::OkStatus();
}

bool Window::FitsWithout(uint64_t function, uint64_t size, uint64_t limit) const {
  return FindRoom(SlotLength(size), limit, function).ok();
}

absl::StatusOr<Slot*> Window::Take(const SlotContent& content, uint64_t limit) {
  for (auto known = slots_.begin(); known != slots_.end(); ++known) {
    Slot& slot = *known;
    if (slot.digest != content.digest || slot.offset + slot.length > limit) continue;
    std::byte* const at = config_.hva + slot.offset;
    const bool spoiled = slot.remote && remote_->spoiled(at);
    // What its functions wait for, or were given instead, is for no other.
    if (spoiled && slot.used()) continue;
    // Kept, and written to by the guest meanwhile: the function gets the template, not that.
    if (!slot.used() && (spoiled || (!slot.read_only && IsWritten(at, slot.length)))) {
      const absl::Status shown = Show(&slot, content);
      changed_(config_.number, slot.offset, slot.length);
      if (!shown.ok()) {
        (void)Hide(slot);  // Whoever takes the place hides what is there, too.
        slots_.erase(known);
        return shown;
      }
    }
    ++slot.attaching;
    return &slot;
  }
  Slot slot{};
  slot.length = SlotLength(content.size);
  slot.size = content.size;
  slot.digest = content.digest;
  slot.template_name = content.template_name;
  slot.attaching = 1;
  MOULT_ASSIGN_OR_RETURN(slot.offset, FindRoom(slot.length, limit, /*without=*/0));
  MOULT_RETURN_IF_ERROR(Hide(slot));
  if (const absl::Status shown = Show(&slot, content); !shown.ok()) {
    (void)Hide(slot);  // A failed MAP_FIXED may leave a hole.
    return shown;
  }
  changed_(config_.number, slot.offset, slot.length);
  const auto next = std::find_if(slots_.begin(), slots_.end(),
                                 [&](const Slot& other) { return other.offset > slot.offset; });
  return &*slots_.insert(next, std::move(slot));
}

uint64_t Window::ShownTo(uint64_t function) const {
  uint64_t bytes = 0;
  for (const Slot& slot : slots_) bytes += slot.users.contains(function) ? slot.size : 0;
  return bytes;
}

void Window::TellUsers(const Slot& slot) {
  if (slot.remote) remote_->SetUsers(config_.hva + slot.offset, slot.users);
}

void Window::Attached(Slot* slot, uint64_t function) {
  --slot->attaching;
  if (function != 0) slot->users.insert(function);
  TellUsers(*slot);
  FreeUnused();
}

void Window::Uncertain(Slot* slot) {
  --slot->attaching;
  slot->uncertain = true;
}

void Window::Drop(uint64_t function) {
  for (Slot& slot : slots_) {
    if (slot.users.erase(function) != 0) TellUsers(slot);
  }
  FreeUnused();
}

void Window::Reconcile(const std::function<bool(uint64_t)>& is_live,
                       const std::function<bool(const std::string&)>& has_live) {
  for (Slot& slot : slots_) {
    const size_t ended = std::erase_if(slot.users, [&](uint64_t function) { return !is_live(function); });
    if (ended != 0) TellUsers(slot);
    // While an attach of this template is under way nothing can be said of an earlier one.
    if (slot.uncertain && slot.attaching == 0) slot.uncertain = has_live(slot.template_name);
  }
  FreeUnused();
}

void Window::Clear() {
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    slot->users.clear();
    TellUsers(*slot);
    slot->uncertain = false;
    if (slot->used() || !TryFree(&slot)) ++slot;
  }
}

std::vector<Window::Extent> Window::Idle() const {
  std::vector<Extent> idle;
  for (const Slot& slot : slots_) {
    if (!slot.used()) idle.push_back({slot.offset, slot.length});
  }
  return idle;
}

void Window::Free(uint64_t offset) {
  const auto slot =
      std::find_if(slots_.begin(), slots_.end(), [&](const Slot& one) { return one.offset == offset; });
  if (slot == slots_.end() || slot->used()) return;
  auto at = slot;
  (void)TryFree(&at);
}

void Window::FreeUnused() {
  if (asks_) return;
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    if (slot->used() || !TryFree(&slot)) ++slot;
  }
}

bool Window::TryFree(std::list<Slot>::iterator* slot) {
  // What cannot be emptied (out of mappings) stays as it is, and is tried again.
  if (!Hide(**slot).ok()) return false;
  changed_(config_.number, (*slot)->offset, (*slot)->length);
  *slot = slots_.erase(*slot);
  return true;
}

}  // namespace moult::host
