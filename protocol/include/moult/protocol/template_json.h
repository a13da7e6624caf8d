// SPDX-License-Identifier: Apache-2.0
//
// Templates as JSON, for people and scripts. One way: nothing reads it back.
#ifndef MOULT_PROTOCOL_TEMPLATE_JSON_H_
#define MOULT_PROTOCOL_TEMPLATE_JSON_H_

#include <string>

#include "moult/protocol/schema.h"

namespace moult::image {

// Valid JSON (RFC 8259) with the schema's field names. Enums and union types are strings (a number when
// unknown), byte vectors base64 strings, structs objects; 64-bit integers are plain numbers, so read them
// with a parser that keeps 64 bits. Text that is not UTF-8 has U+FFFD for each bad byte. Fields that hold
// their default are left out. `indent` 0: one line.
std::string ImageToJson(const ProcessImage& image, int indent = 2);
std::string ImageToJson(const ProcessImageT& image, int indent = 2);
std::string ManifestToJson(const Manifest& manifest, int indent = 2);
std::string ManifestToJson(const ManifestT& manifest, int indent = 2);

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_TEMPLATE_JSON_H_
