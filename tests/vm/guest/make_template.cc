// SPDX-License-Identifier: Apache-2.0
//
// moult-vm-template FOLDER TENANT MIB SEED: a template that breaks no rule and that no function was captured for, with
// pages that are told apart by their content. Prints the SHA-256 of the manifest and of the pages.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../../unit/protocol/sample_image.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/template_reader.h"
#include "moult/protocol/template_writer.h"

namespace image = moult::image;

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  auto writer = image::TemplateWriter::Create(argv[1]);
  std::mt19937_64 random(std::strtoull(argv[4], nullptr, 10));
  std::vector<uint64_t> block((1 << 20) / sizeof(uint64_t));
  image::Sha256 whole;
  absl::Status status = writer.status();
  for (long i = 0; status.ok() && i < std::atol(argv[3]); ++i) {
    for (uint64_t& word : block) word = random();
    const struct iovec part = {block.data(), 1 << 20};
    whole.Update(block.data(), 1 << 20);
    status = (*writer)->AppendPages({&part, 1}).status();
  }
  image::ManifestT manifest = image::sample::Manifest();
  manifest.tenant = argv[2];
  if (status.ok()) status = (*writer)->Commit(image::sample::Image(), std::move(manifest));
  auto reader = image::TemplateReader::Open(argv[1]);
  if (status.ok()) status = reader.status();
  if (!status.ok()) {
    std::fprintf(stderr, "moult-vm-template: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  std::printf("%s %s\n", image::DigestHex(image::Sha256Of((*reader)->manifest_file())).c_str(),
              image::DigestHex(whole.Finish()).c_str());
  return 0;
}
