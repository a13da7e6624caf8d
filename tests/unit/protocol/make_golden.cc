// SPDX-License-Identifier: Apache-2.0
//
// make_golden DIR [all]: writes the sample template, or the one with all kinds of things. Those in protocol/golden
// were made by it when the version was new, and stay as they are: later readers must read what earlier writers wrote.
#include <cstdio>
#include <cstring>

#include "moult/protocol/template_writer.h"
#include "sample_image.h"

int main(int argc, char** argv) {
  const bool all = argc == 3 && std::strcmp(argv[2], "all") == 0;
  if (argc != 2 && !all) return 2;
  using moult::image::TemplateWriter;
  absl::StatusOr<std::unique_ptr<TemplateWriter>> writer = TemplateWriter::Create(argv[1]);
  absl::Status status = writer.status();
  if (status.ok()) {
    std::vector<uint8_t> pages = moult::image::sample::Pages();
    const struct iovec part = {pages.data(), pages.size()};
    status = (*writer)->AppendPages({&part, 1}).status();
  }
  if (status.ok())
    status = (*writer)->Commit(all ? moult::image::sample::FullImage() : moult::image::sample::Image(), moult::image::sample::Manifest());
  if (status.ok()) return 0;
  std::fprintf(stderr, "make_golden: %s\n", std::string(status.message()).c_str());
  return 1;
}
