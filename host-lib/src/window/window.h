// SPDX-License-Identifier: Apache-2.0
//
// One window of one vm: which template's pages are where in it.
#ifndef MOULT_HOST_WINDOW_WINDOW_H_
#define MOULT_HOST_WINDOW_WINDOW_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pool/direct_pages.h"
#include "remote/remote_pager.h"

namespace moult::host {

inline constexpr uint64_t kSlotAlign = 2 << 20;

struct WindowConfig {
  uint64_t gpa = 0;  // 0: the guest places it
  std::byte* hva = nullptr;
  uint64_t length = 0;
  uint32_t number = 0;
};

// A part of the window that shows one template.
struct Slot {
  uint64_t offset;
  uint64_t length;            // a multiple of kSlotAlign
  uint64_t size;              // of the template's pages
  std::string digest;         // of the template's manifest: names the content
  std::string template_name;  // as the agent knows it
  std::set<uint64_t> users;   // functions
  int attaching = 0;          // attaches under way
  bool uncertain = false;     // an attach ended without an answer: somebody may be using it
  bool kept = false;          // the agent said that it keeps what it was told of the template
  bool remote = false;        // its pages come as they are touched
  bool direct = false;        // they are mapped from the memory that they lie in
  bool read_only = false;     // a guest that writes there ends its VMM
  bool used() const { return !users.empty() || attaching > 0 || uncertain; }
};

// What a slot is to show.
struct SlotContent {
  std::string digest;
  std::string template_name;
  int fd = -1;  // of which `size` bytes from 0 on are mapped, when it is neither of these
  uint64_t size = 0;
  std::shared_ptr<RemotePages> remote;
  std::shared_ptr<const DirectPages> direct;
};

// Not thread-safe. Slots have stable addresses until they are freed.
class Window {
 public:
  using ChangedHook = std::function<void(uint32_t number, uint64_t offset, uint64_t length)>;
  // `remote`: serves slots whose pages are not all here; null: there can be none.
  Window(const WindowConfig& config, ChangedHook changed, RemotePager* remote = nullptr)
      : config_(config), changed_(std::move(changed)), remote_(remote) {}

  const WindowConfig& config() const { return config_; }
  const std::list<Slot>& slots() const { return slots_; }

  // The slot that shows this digest, or a new one; counted as attaching. `limit`: how much of the window the guest has.
  // kResourceExhausted: no room.
  absl::StatusOr<Slot*> Take(const SlotContent& content, uint64_t limit);
  // Would a slot of `size` bytes find room once `function` is gone?
  bool FitsWithout(uint64_t function, uint64_t size, uint64_t limit) const;
  // From now on slots that nobody uses any more are kept, for the same template to come again, until Free().
  void set_asks(bool asks) { asks_ = asks; }
  struct Extent {
    uint64_t offset;
    uint64_t length;
  };
  std::vector<Extent> Idle() const;
  // The agent says that nothing has the pages of the slot at `offset`. One that is in use again by now stays.
  void Free(uint64_t offset);
  // Ends an attach: `function` uses the slot now, or nobody of that attach (0) does.
  void Attached(Slot* slot, uint64_t function);
  // The agent did not answer.
  void Uncertain(Slot* slot);
  // `function` is gone, and its page tables with it.
  void Drop(uint64_t function);
  // How much of templates the function is shown.
  uint64_t ShownTo(uint64_t function) const;
  // What the agent says now: `live` tells whether a function with this id, or one of a template with this
  // name, may be there.
  void Reconcile(const std::function<bool(uint64_t)>& is_live,
                 const std::function<bool(const std::string&)>& has_live);
  // All functions are gone, and the guest's kernel that knew them.
  void Clear();

 private:
  absl::StatusOr<uint64_t> FindRoom(uint64_t length, uint64_t limit, uint64_t without) const;
  absl::Status Show(Slot* slot, const SlotContent& content);
  absl::Status ShowFile(const Slot& slot, const SlotContent& content);
  absl::Status ShowDirect(const Slot& slot, const SlotContent& content);
  absl::Status Hide(const Slot& slot);
  void TellUsers(const Slot& slot);
  void FreeUnused();
  // Whether the slot is there no more; `slot` is the one after it.
  bool TryFree(std::list<Slot>::iterator* slot);

  const WindowConfig config_;
  const ChangedHook changed_;
  RemotePager* const remote_;
  bool asks_ = false;
  std::list<Slot> slots_;  // rising by offset
};

}  // namespace moult::host

#endif  // MOULT_HOST_WINDOW_WINDOW_H_
