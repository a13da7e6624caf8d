// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_KERNEL_CHECK_H_
#define MOULT_IMAGE_KERNEL_CHECK_H_

#include <string>
#include <vector>

namespace moult::engine {

struct KernelFeature {
  std::string name;
  bool present = false;
  bool required = false;     // without it nothing works; otherwise only `purpose` does not
  std::string purpose;
  std::string remedy;
};

// Tries each feature on this process or on throw-away children; changes nothing.
std::vector<KernelFeature> CheckKernel();

}  // namespace moult::engine

#endif  // MOULT_IMAGE_KERNEL_CHECK_H_
