#include "ops/codebook/nested_scales.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/tiles.h"

namespace lowbit {
namespace {

constexpr std::size_t kValues = 256;
constexpr float kPowers[] = {1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};
using Map = std::array<float, kValues>;

Map make_map() {
  Map map{};
  std::size_t n = 0;
  map[n++] = 0.0F;
  map[n++] = 1.0F;
  for (int decade = 0; decade < 7; decade++) {
    const int steps = 1 << decade;
    const float power = kPowers[decade];
    // The middles of so many equal steps from 0.1 to 1, in float32 as PyTorch's linspace counts them where processors
    // have fused multiply-adds: from both ends.
    const double step = static_cast<double>((1.0F - 0.1F) / static_cast<float>(steps));
    const auto edge = [&](int i) {
      return static_cast<float>(i < (steps + 1) / 2 ? static_cast<double>(0.1F) + step * i : 1.0 - step * (steps - i));
    };
    for (int i = 0; i < steps; i++) {
      const float value = (edge(i) + edge(i + 1)) / 2.0F * power;
      map[n++] = value;
      map[n++] = -value;
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

const Map& map() {
  static const Map values = make_map();
  return values;
}

// The code of the nearest value, the lower one in the middle.
std::uint8_t nearest(float x) {
  const Map& values = map();
  std::size_t low = 0, high = kValues - 1;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (x > (values[middle] + values[middle + 1]) / 2.0F) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return static_cast<std::uint8_t>(low);
}

}  // namespace

const float* dynamic_map() { return map().data(); }

float nest_scales(float* scales, std::size_t count, std::uint8_t* codes, float* absmax) {
  double sum = 0.0;
  for (std::size_t i = 0; i < count; i++) sum += static_cast<double>(scales[i]);
  const float offset = count == 0 ? 0.0F : static_cast<float>(sum / static_cast<double>(count));
  for (std::size_t b = 0; b * kNestedBlock < count; b++) {
    const std::size_t begin = b * kNestedBlock, end = std::min(count, begin + kNestedBlock);
    float largest = 0.0F;
    for (std::size_t i = begin; i < end; i++) largest = std::max(largest, std::fabs(scales[i] - offset));
    absmax[b] = largest;
    const float divisor = largest > 1e-38F ? largest : 1e-38F;
    for (std::size_t i = begin; i < end; i++) {
      codes[i] = nearest(std::clamp((scales[i] - offset) / divisor, -1.0F, 1.0F));
      scales[i] = map()[codes[i]] * largest + offset;
    }
  }
  return offset;
}

}  // namespace lowbit
