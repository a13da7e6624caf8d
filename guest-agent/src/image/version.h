// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_VERSION_H_
#define MOULT_IMAGE_VERSION_H_

namespace moult::engine {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace moult::engine

#endif  // MOULT_IMAGE_VERSION_H_
