// SPDX-License-Identifier: Apache-2.0
//
// A function as JSON, which an embedder or a client of the control socket gives. What is accepted says the
// same when it is written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "json/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // SAFETY: reads the fuzzer's own buffer as char.
  const auto spec = moult::host::SpecFromJson({reinterpret_cast<const char*>(data), size});
  if (!spec.ok()) return 0;
  const std::string text = moult::host::Dump(moult::host::ToJson(**spec));
  const auto again = moult::host::SpecFromJson(text);
  if (!again.ok() || moult::host::Dump(moult::host::ToJson(**again)) != text) std::abort();
  return 0;
}
