// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <map>

#include "absl/strings/str_join.h"
#include "commands.h"
#include "image/files.h"
#include "image/host.h"
#include "moult/protocol/template_json.h"
#include "moult/protocol/template_reader.h"
#include "output.h"

namespace moult::tool {
namespace {

constexpr double kMiB = 1 << 20;

void ShowSummary(const image::TemplateReader& reader) {
  const image::ManifestT& manifest = reader.manifest();
  const image::ProcessImageT& image = reader.image();
  const image::ProcessT& process = *image.processes.front();
  std::printf("name         %s (pid %d%s)\n", manifest.name.c_str(), process.pid, image.sandboxed ? ", from a sandbox" : "");
  std::printf("format       %u, written by moult-image %s\n", manifest.format_version, manifest.tool_version.c_str());
  std::printf("needs        %s, page size %u, kernel %s\n", manifest.requirements->arch.c_str(), manifest.requirements->page_size,
              manifest.requirements->kernel_release.c_str());
  std::printf("user state   %.1f MiB\n", static_cast<double>(reader.pages_size()) / kMiB);
  std::printf("threads      %zu\n", process.threads.size());
  std::printf("mappings     %zu\n", process.memory->vmas.size());
  std::map<std::string, size_t> kinds;
  for (const auto& file : image.open_files) ++kinds[image::EnumNameResource(file->resource.type)];
  std::printf("descriptors  %zu", process.fds.size());
  for (const auto& [kind, count] : kinds) std::printf(", %zu %s", count, kind.c_str());
  std::printf("\ntimers       %zu\n", process.posix_timers.size());
  std::printf("files        %zu\n", image.files.size());
  for (const auto& file : image.files) std::printf("  %s\n", file->path.c_str());
  for (const std::string& note : image.notes) std::printf("note: %s\n", note.c_str());
}

}  // namespace

int RunShow(const ShowArguments& arguments) {
  const auto reader = image::TemplateReader::Open(arguments.dir);
  if (!reader.ok()) return Fail(Annotate(reader.status(), absl::StrCat("show ", arguments.dir)), arguments.json);
  if (!arguments.json) {
    ShowSummary(**reader);
    return 0;
  }
  std::printf("{\"manifest\": %s,\n\"image\": %s}\n", image::ManifestToJson((*reader)->manifest()).c_str(),
              image::ImageToJson((*reader)->image()).c_str());
  return 0;
}

int RunVerify(const VerifyArguments& arguments) {
  const auto verify = [&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(const auto reader, image::TemplateReader::Open(arguments.dir));
    MOULT_RETURN_IF_ERROR(reader->VerifyPages());
    MOULT_ASSIGN_OR_RETURN(const auto host, engine::DescribeHost());
    MOULT_RETURN_IF_ERROR(engine::CheckRequirements(*reader->manifest().requirements, *host));
    return engine::CheckFiles(reader->image());
  };
  const absl::Status status = verify();
  if (!status.ok()) return Fail(Annotate(status, absl::StrCat("verify ", arguments.dir)), arguments.json);
  if (arguments.json) {
    std::printf("%s\n", Dump({{"dir", arguments.dir}, {"ok", true}}).c_str());
  } else {
    std::printf("%s: whole, and fits this machine\n", arguments.dir.c_str());
  }
  return 0;
}

}  // namespace moult::tool
