// SPDX-License-Identifier: Apache-2.0
//
// Bytes from nowhere into everything that reads a template: never a crash, a hang or a wild allocation. The
// first byte chooses the parser; the rest is the file.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "moult/protocol/parse.h"
#include "moult/protocol/template_json.h"
#include "moult/protocol/validate.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 3) {
    case 0:  // the manifest as it is
      (void)moult::image::ParseManifest(bytes).status();
      break;
    case 1: {  // a payload in a good header, which a fuzzer would not find
      const auto manifest = moult::image::ParseManifest(moult::image::EncodeManifestFile(bytes));
      if (manifest.ok()) moult::image::ManifestToJson(**manifest);
      break;
    }
    default: {
      const auto image = moult::image::ParseImage(bytes);
      if (!image.ok()) break;
      if (moult::image::ValidateImage(**image, uint64_t{1} << 30).ok()) moult::image::ImageToJson(**image);
      break;
    }
  }
  return 0;
}
