// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/validate.h"

#include <algorithm>
#include <cstring>

#include "absl/types/span.h"
#include "moult/protocol/digest.h"
#include "validate_internal.h"

namespace moult::image {
namespace {

using validate::CheckCount;
using validate::CheckText;
using validate::Path;

absl::Status CheckDigest(const Path& at, const ContentDigestT* digest, uint64_t limit) {
  if (digest == nullptr) return at.Bad("missing");
  if (digest->size > limit) return at.BadField("size", digest->size, " is over the limit of ", limit);
  if (digest->sha256.size() != 32) return at.BadField("sha256", digest->sha256.size(), " bytes, not 32");
  return absl::OkStatus();
}

// That of a kernel, be it another one: whether a template fits a machine is not asked here.
bool IsPageSize(uint32_t size) { return size >= kPageSize && size <= kMaxPageSize && (size & (size - 1)) == 0; }

absl::Status CheckRequirements(const Path& at, const RequirementsT* needs) {
  if (needs == nullptr) return at.Bad("missing");
  if (needs->arch.empty()) return at.BadField("arch", "empty");
  MOULT_RETURN_IF_ERROR(CheckText(at, "arch", needs->arch, 64));
  MOULT_RETURN_IF_ERROR(CheckText(at, "kernel_release", needs->kernel_release, 256));
  if (!IsPageSize(needs->page_size)) {
    return at.BadField("page_size", needs->page_size, " is not a power of two from ", kPageSize, " to ", kMaxPageSize);
  }
  if (needs->vdso_digest.size() != 32) {
    return at.BadField("vdso_digest", needs->vdso_digest.size(), " bytes, not 32");
  }
  if (needs->vvar_pages > 64) return at.BadField("vvar_pages", needs->vvar_pages, " is over the limit of 64");
  if (needs->xsave_size < kMinXsave || needs->xsave_size > kMaxXsave) {
    return at.BadField("xsave_size", needs->xsave_size, " is not from ", kMinXsave, " to ", kMaxXsave);
  }
  MOULT_RETURN_IF_ERROR(CheckCount(at, "cpu_flags", needs->cpu_flags, 1024));
  for (size_t i = 0; i < needs->cpu_flags.size(); ++i) {
    MOULT_RETURN_IF_ERROR(CheckText(at, "cpu_flags", needs->cpu_flags[i], 64));
  }
  return absl::OkStatus();
}

absl::Status CheckTree(const Path& at, const ManifestT& manifest) {
  const uint64_t size = manifest.pages->size;
  if (size % kPageSize != 0) return at.BadField("pages", "size ", size, " is not whole pages");
  if (manifest.pages_chunk != kPagesChunk) {
    return at.BadField("pages_chunk", manifest.pages_chunk, ", not ", kPagesChunk);
  }
  const uint64_t leaves = (size + kPagesChunk - 1) / kPagesChunk;
  if (manifest.pages_leaves.size() != leaves * 32) {
    return at.BadField("pages_leaves", manifest.pages_leaves.size(), " bytes, not 32 for each of ", leaves,
                       " chunks");
  }
  const Sha256Digest root = TreeRoot(absl::MakeConstSpan(manifest.pages_leaves));
  if (std::memcmp(root.data(), manifest.pages->sha256.data(), root.size()) != 0) {
    return at.BadField("pages_leaves", "do not add up to the root in pages.sha256");
  }
  return absl::OkStatus();
}

// No page is named twice by who captures; work and memory of who reads are bounded by that.
absl::Status CheckRunsFit(const Path& at, const ProcessImageT& image, uint64_t pages_size) {
  uint64_t left = pages_size;
  const auto fits = [&left](const std::vector<PageRun>& runs) {
    for (const PageRun& run : runs) {
      if (run.length() > left) return false;
      left -= run.length();
    }
    return true;
  };
  const auto all_fit = [&fits](const auto& elements) {
    return std::all_of(elements.begin(), elements.end(), [&fits](const auto& element) { return fits(element->runs); });
  };
  if (fits(image.processes[0]->memory->runs) && all_fit(image.objects) && all_fit(image.private_files)) return absl::OkStatus();
  return at.Bad("all runs together have more than the ", pages_size, " bytes of pages");
}

}  // namespace

absl::Status ValidateImage(const ProcessImageT& image, uint64_t pages_size) {
  const Path at("image");
  if (image.processes.size() != 1) {
    return at.BadField("processes", image.processes.size(), " elements; format 1 holds exactly one");
  }
  MOULT_RETURN_IF_ERROR(CheckCount(at, "processes", image.processes, 1));
  MOULT_RETURN_IF_ERROR(CheckCount(at, "notes", image.notes, kMaxNotes));
  for (const std::string& note : image.notes) {
    MOULT_RETURN_IF_ERROR(CheckText(at, "notes", note, kMaxPath));
  }
  if (image.monotonic_ns < 0) return at.BadField("monotonic_ns", image.monotonic_ns, " is negative");
  if (image.boottime_ns < 0) return at.BadField("boottime_ns", image.boottime_ns, " is negative");
  if (image.realtime_ns < 0) return at.BadField("realtime_ns", image.realtime_ns, " is negative");
  // In the order of reference: what a check looks into has been checked for missing elements before.
  MOULT_RETURN_IF_ERROR(validate::CheckFiles(at, image));
  MOULT_RETURN_IF_ERROR(validate::CheckObjects(at, image, pages_size));
  MOULT_RETURN_IF_ERROR(validate::CheckPrivateFiles(at, image, pages_size));
  MOULT_RETURN_IF_ERROR(validate::CheckPipes(at, image));
  MOULT_RETURN_IF_ERROR(validate::CheckOpenFiles(at, image));
  MOULT_RETURN_IF_ERROR(validate::CheckProcess(Path(at, "processes", 0), image, *image.processes[0], pages_size));
  return CheckRunsFit(at, image, pages_size);
}

absl::Status ValidateManifest(const ManifestT& manifest) {
  const Path at("manifest");
  if (manifest.format_version < kOldestFormatVersion || manifest.format_version > kFormatVersion) {
    return at.BadField("format_version", manifest.format_version, ", not ", kOldestFormatVersion, " to ", kFormatVersion);
  }
  MOULT_RETURN_IF_ERROR(CheckText(at, "tool_version", manifest.tool_version, 256));
  MOULT_RETURN_IF_ERROR(CheckText(at, "name", manifest.name, kMaxPath));
  MOULT_RETURN_IF_ERROR(CheckText(at, "boot_id", manifest.boot_id, 256));
  MOULT_RETURN_IF_ERROR(CheckText(at, "tenant", manifest.tenant, kMaxTenant));
  if (manifest.function.size() > kMaxFunctionSpec) {
    return at.BadField("function", manifest.function.size(), " bytes, over the limit of ", kMaxFunctionSpec);
  }
  MOULT_RETURN_IF_ERROR(CheckRequirements(Path(at, "requirements"), manifest.requirements.get()));
  MOULT_RETURN_IF_ERROR(CheckDigest(Path(at, "image"), manifest.image.get(), kMaxImageSize));
  MOULT_RETURN_IF_ERROR(CheckDigest(Path(at, "pages"), manifest.pages.get(), kMaxPagesSize));
  return CheckTree(at, manifest);
}

absl::Status ValidateMatch(const ManifestT& manifest, const ProcessImageT& image) {
  const Path at("manifest");
  const ProcessT& process = *image.processes[0];
  uint64_t bytes = 0;
  for (const PageRun& run : process.memory->runs) bytes += run.length();
  const struct {
    const char* field;
    uint64_t manifest;
    uint64_t image;
  } pairs[] = {{"threads", manifest.threads, process.threads.size()},
               {"vmas", manifest.vmas, process.memory->vmas.size()},
               {"fds", manifest.fds, process.fds.size()},
               {"user_state_bytes", manifest.user_state_bytes, bytes}};
  for (const auto& pair : pairs) {
    if (pair.manifest != pair.image)
      return at.BadField(pair.field, pair.manifest, ", but the image has ", pair.image);
  }
  return absl::OkStatus();
}

}  // namespace moult::image
