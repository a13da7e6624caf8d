// SPDX-License-Identifier: Apache-2.0
#include "floor_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>

#include "moult/base/page.h"
#include "moult/protocol/template_reader.h"

namespace moult::bench {
namespace {

constexpr size_t kMaxIov = 1024;
constexpr uint64_t kMaxRead = 1u << 30;  // below the kernel's limit for one read

[[noreturn]] void Die(const std::string& what) {
  std::perror(absl::StrCat("floor: ", what).c_str());
  _exit(1);
}

bool IsKernels(const image::VmaT& vma) {
  return vma.kind == image::VmaKind::Vdso || vma.kind == image::VmaKind::Vvar || vma.kind == image::VmaKind::VvarVclock;
}

// Addresses for so many bytes: free in this process, and in its forks.
char* FindRoom(size_t size) {
  void* room = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED || munmap(room, size) < 0) Die("find room");
  return static_cast<char*>(room);
}

}  // namespace

BareMemory::BareMemory(const std::string& dir) {
  const auto reader = image::TemplateReader::Open(dir);
  if (!reader.ok()) {
    std::fprintf(stderr, "floor: %s\n", std::string(reader.status().message()).c_str());
    _exit(1);
  }
  pages_ = dup((*reader)->pages_fd());
  if (pages_ < 0) Die("keep the page file");
  const image::ProcessImageT& image = (*reader)->image();
  const image::MemoryMapT& memory = *image.processes.front()->memory;
  size_t room = 0;
  for (const auto& vma : memory.vmas) room += vma->end - vma->start + kPage;
  char* at = FindRoom(room);
  std::map<std::pair<uint32_t, int>, int> files;
  auto run = memory.runs.begin();
  for (const auto& vma : memory.vmas) {
    if (IsKernels(*vma)) continue;
    const size_t length = vma->end - vma->start;
    const bool shared = vma->kind == image::VmaKind::SharedFile || vma->kind == image::VmaKind::SharedObject;
    Mapping mapping{at, length, static_cast<int>(vma->prot), shared ? MAP_SHARED : MAP_PRIVATE, -1, 0, false};
    if (vma->noreserve) mapping.flags |= MAP_NORESERVE;
    if (vma->file == UINT32_MAX) {
      mapping.flags |= MAP_ANONYMOUS;  // memory objects as well: they are no mappings of their own
    } else {
      const int access = shared && vma->may_write ? O_RDWR : O_RDONLY;
      const auto [file, is_new] = files.try_emplace({vma->file, access}, -1);
      const std::string& path = image.files[vma->file]->path;
      if (is_new) file->second = open(path.c_str(), access | O_CLOEXEC);
      if (file->second < 0) Die(path);
      mapping.fd = file->second;
      mapping.offset = static_cast<off_t>(vma->offset);
    }
    while (run != memory.runs.end() && run->start() < vma->start) ++run;
    for (; run != memory.runs.end() && run->start() < vma->end; ++run) {
      mapping.protect_later = (vma->prot & PROT_WRITE) == 0;
      for (uint64_t done = 0; done < run->length();) {
        const uint64_t from = run->pages_offset() + done;
        const bool follows = !batches_.empty() && batches_.back().parts.size() < kMaxIov && batches_.back().length < kMaxRead &&
                             static_cast<uint64_t>(batches_.back().offset) + batches_.back().length == from;
        if (!follows) batches_.push_back({static_cast<off_t>(from), 0, {}});
        Batch& batch = batches_.back();
        const uint64_t piece = std::min(run->length() - done, kMaxRead - batch.length);
        batch.parts.push_back({at + (run->start() - vma->start) + done, piece});
        batch.length += piece;
        done += piece;
      }
    }
    mappings_.push_back(mapping);
    at += length + kPage;  // neighbours must not become one
  }
}

void BareMemory::Map() const {
  for (const Mapping& mapping : mappings_) {
    // SAFETY: inside the room that was found for all of them.
    if (mmap(mapping.at, mapping.length, mapping.protect_later ? PROT_WRITE : mapping.prot, mapping.flags | MAP_FIXED_NOREPLACE,
             mapping.fd, mapping.offset) != mapping.at)
      Die("mmap");
  }
}

void BareMemory::Fill() const {
  for (const Batch& batch : batches_) {
    if (preadv(pages_, batch.parts.data(), static_cast<int>(batch.parts.size()), batch.offset) != static_cast<ssize_t>(batch.length))
      Die("preadv");
  }
}

void BareMemory::Protect() const {
  for (const Mapping& mapping : mappings_) {
    if (mapping.protect_later && mprotect(mapping.at, mapping.length, mapping.prot) < 0) Die("mprotect");
  }
}

}  // namespace moult::bench
