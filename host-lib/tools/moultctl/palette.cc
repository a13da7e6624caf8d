// SPDX-License-Identifier: Apache-2.0
#include "palette.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_format.h"

namespace moult::ctl {
namespace {

struct Look {
  std::string_view name;
  char letter;
  double lightness;  // of a function's hue; 0: not a function's
  Colour colour;     // else
};

constexpr std::array kLooks{
    Look{"user_private", 'P', 0.42, {}},   Look{"user_shared", 'S', 0.57, {}},
    Look{"user_file", 'F', 0.71, {}},      Look{"template", 'T', 0.83, {}},
    Look{"system", 'K', 0, {82, 90, 102}}, Look{"page_cache", 'C', 0, {158, 167, 180}},
    Look{"free", '.', 0, {232, 234, 237}}, Look{"reserved", '#', 0, {38, 41, 46}},
};

const Look* Find(std::string_view name) {
  const auto found =
      std::find_if(kLooks.begin(), kLooks.end(), [&](const Look& look) { return look.name == name; });
  return found == kLooks.end() ? nullptr : &*found;
}

uint8_t Byte(double fraction) {
  return static_cast<uint8_t>(std::lround(std::clamp(fraction, 0.0, 1.0) * 255));
}

// As CSS has it; hue in degrees.
Colour FromHsl(double hue, double saturation, double lightness) {
  const auto channel = [&](double n) {
    const double k = std::fmod(n + hue / 30, 12);
    return Byte(lightness - saturation * std::min(lightness, 1 - lightness) *
                                std::max(-1.0, std::min({k - 3, 9 - k, 1.0})));
  };
  return {channel(0), channel(8), channel(4)};
}

double Light(uint8_t value) {
  const double s = value / 255.0;
  return s <= 0.04045 ? s / 12.92 : std::pow((s + 0.055) / 1.055, 2.4);
}

uint8_t FromLight(double light) {
  return Byte(light <= 0.0031308 ? light * 12.92 : 1.055 * std::pow(light, 1 / 2.4) - 0.055);
}

}  // namespace

std::string HexColour(Colour colour) {
  return absl::StrFormat("#%02x%02x%02x", colour.r, colour.g, colour.b);
}

bool IsOfFunction(std::string_view page_class) {
  const Look* look = Find(page_class);
  return look != nullptr && look->lightness > 0;
}

char ClassLetter(std::string_view page_class) {
  const Look* look = Find(page_class);
  return look == nullptr ? '?' : look->letter;
}

Colour ClassColour(std::string_view page_class, uint64_t function, bool offloaded) {
  const Look* look = Find(page_class);
  if (look == nullptr) return {160, 120, 160};
  if (look->lightness <= 0) return look->colour;
  // By the golden angle no two of the first functions come near each other. From 210: the first is
  // blue-green.
  constexpr double kGoldenAngle = 137.50776405;
  const double hue = std::fmod(210 + kGoldenAngle * static_cast<double>(function % 4096), 360);
  const double lightness = offloaded ? (look->lightness + 1) / 2 : look->lightness;
  return FromHsl(hue, offloaded ? 0.35 : 0.72, lightness);
}

Colour Mix(std::span<const std::pair<Colour, uint64_t>> parts) {
  if (parts.empty()) return {};
  static const std::array<double, 256> kLight = [] {
    std::array<double, 256> light{};
    for (size_t i = 0; i < light.size(); ++i) light[i] = Light(static_cast<uint8_t>(i));
    return light;
  }();
  double r = 0, g = 0, b = 0, sum = 0;
  bool one = true;
  for (const auto& [colour, weight] : parts) {
    const auto w = static_cast<double>(weight);
    r += w * kLight[colour.r];
    g += w * kLight[colour.g];
    b += w * kLight[colour.b];
    sum += w;
    one = one && colour == parts.front().first;
  }
  if (one || sum <= 0) return parts.front().first;
  return {FromLight(r / sum), FromLight(g / sum), FromLight(b / sum)};
}

}  // namespace moult::ctl
