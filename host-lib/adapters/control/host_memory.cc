// SPDX-License-Identifier: Apache-2.0
#include "host_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace moult::control {

double HostPressure() {
  std::ifstream file("/proc/meminfo");
  double total = 0;
  double available = 0;
  std::string key;
  std::string unit;
  for (double kib = 0; file >> key >> kib && std::getline(file, unit);) {
    if (key == "MemTotal:") total = kib;
    if (key == "MemAvailable:") available = kib;
  }
  return total > 0 ? std::clamp(1 - available / total, 0.0, 1.0) : 0;
}

}  // namespace moult::control
