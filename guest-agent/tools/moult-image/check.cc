// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "commands.h"
#include "image/kernel_check.h"
#include "output.h"

namespace moult::tool {

int RunCheck(const CheckArguments& arguments) {
  const std::vector<engine::KernelFeature> features = engine::CheckKernel();
  bool usable = true;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const engine::KernelFeature& feature : features) {
    usable &= feature.present || !feature.required;
    list.push_back({{"name", feature.name}, {"present", feature.present}, {"required", feature.required}, {"for", feature.purpose}, {"remedy", feature.remedy}});
    if (arguments.json) continue;
    std::printf("%-8s %-24s %s\n", feature.present ? "ok" : feature.required ? "MISSING" : "absent", feature.name.c_str(), feature.purpose.c_str());
    if (!feature.present) std::printf("         -> %s\n", feature.remedy.c_str());
  }
  if (arguments.json) std::printf("%s\n", Dump({{"usable", usable}, {"features", list}}).c_str());
  return usable ? 0 : 3;
}

}  // namespace moult::tool
