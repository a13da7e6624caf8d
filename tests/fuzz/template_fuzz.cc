// SPDX-License-Identifier: Apache-2.0
//
// Bytes from nowhere into everything that reads a template, and then into what is done with one that was
// accepted: never a crash, a hang or a wild allocation. The first byte chooses the parser; the rest is the
// file, or changes of a good one.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "../unit/protocol/sample_image.h"
#include "image/plan.h"
#include "messages.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/template_json.h"
#include "moult/protocol/validate.h"
#include "session/page_plan.h"

namespace {

namespace image = moult::image;
namespace engine = moult::engine;
namespace sample = moult::image::sample;

// Descriptors as OpenMappedFiles would number them, none of them open.
engine::FdNumbers Numbers(const image::ProcessImageT& from) {
  engine::FdNumbers numbers{};
  numbers.first = 1 << 20;
  int next = numbers.first;
  numbers.pages.fd = next++;
  const image::MemoryMapT& memory = *from.processes.front()->memory;
  numbers.files[{memory.exe, false}] = next++;
  for (const auto& vma : memory.vmas) {
    if (vma->file == image::kNone) continue;
    numbers.files[{vma->file, vma->kind == image::VmaKind::SharedFile && vma->may_write}] = next++;
  }
  numbers.objects_rw = next;
  numbers.objects_ro = next + static_cast<int>(from.objects.size());
  numbers.free = numbers.objects_ro + static_cast<int>(from.objects.size());
  return numbers;
}

// A builder with one mapping, so that the outcome is the same on every machine.
engine::Starting Start() {
  engine::Starting starting;
  moult::proc::MapsEntry entry;
  entry.start = 0x555555554000;
  entry.end = 0x555555556000;
  starting.maps.push_back(std::move(entry));
  starting.limits.assign(16, image::Limit(~0ull, ~0ull));
  return starting;
}

// What a restore and a capture do with an image, once it is valid.
void Use(const image::ProcessImageT& accepted, uint64_t pages_size) {
  if (pages_size <= (1u << 20)) {
    moult::host::PagePlan plan(accepted, pages_size);
    static const std::byte zeros[4096] = {};
    for (uint64_t at = 0; at < pages_size; at += sizeof(zeros)) plan.Take(zeros);
    image::ProcessImageT rewritten(accepted);
    plan.Rewrite(&rewritten);
    if (!image::ValidateImage(rewritten, pages_size - plan.dropped() * sizeof(zeros)).ok()) std::abort();
  }
  const auto plan = engine::MakePlan(accepted, Numbers(accepted), Start());
  if (!plan.ok() || plan->layout.size > (64u << 20)) return;
  std::vector<std::byte> region(plan->layout.size);
  engine::WriteRegion(*accepted.processes.front(), *plan, region.data());
}

void Image(std::string_view bytes, uint64_t pages_size) {
  const auto parsed = image::ParseImage(bytes);
  if (!parsed.ok() || !image::ValidateImage(**parsed, pages_size).ok()) return;
  image::ImageToJson(**parsed);
  (void)image::ValidateMatch(sample::Manifest(), **parsed);
  Use(**parsed, pages_size);
}

void Manifest(std::string_view file) {
  const auto manifest = image::ParseManifest(file);
  if (!manifest.ok()) return;
  image::ManifestToJson(**manifest);
  (void)image::ValidateMatch(**manifest, sample::Image());
}

void Draft(std::string_view payload) {
  const auto draft = image::ParseDraftManifest(payload);
  if (draft.ok()) (void)image::ValidateMatch(**draft, sample::Image());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  static const std::vector<std::string> images{image::SerializeImage(sample::Image())};
  static const std::vector<std::string> manifests{image::SerializeManifest(sample::Manifest())};
  switch (data[0] % 6) {
    case 0:
      Manifest(bytes);
      break;
    case 1:  // A payload in a good header, which a fuzzer would not find.
      Manifest(image::EncodeManifestFile(bytes));
      break;
    case 2:
      Image(bytes, uint64_t{1} << 30);
      break;
    case 3:
      Draft(bytes);
      break;
    case 4:
      Image(moult::fuzz::Changed(images, bytes), sample::kPagesSize);
      break;
    default:
      Manifest(image::EncodeManifestFile(moult::fuzz::Changed(manifests, bytes)));
      Draft(moult::fuzz::Changed(manifests, bytes));
      break;
  }
  return 0;
}
