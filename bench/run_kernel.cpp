// Runs one kernel once, over 4096 values: for counting its instructions, see instruction_counts.sh.
// Without a name it lists the kernels as "name function", the function as the counter is to find
// it.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "autoround/kernels/update.h"
#include "linalg/kernels/bf16.h"
#include "linalg/kernels/hadamard.h"
#include "model/kernels/elementwise.h"
#include "quant/kernels/rows.h"

namespace {

constexpr int64_t kSize = 4096;

// Values of both signs, the same on every machine.
std::vector<float> values(float scale) {
  std::vector<float> x(kSize);
  uint32_t state = 1;
  for (float& value : x) {
    state = state * 1664525u + 1013904223u;
    value = scale * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
  }
  return x;
}

struct Kernel {
  const char* name;
  const char* folder;  // namespace laos::folder::kernels
  const char* function;
  std::function<void()> run;
};

}  // namespace

int main(int argc, char** argv) {
  using namespace laos;
  std::vector<float> a = values(1), b = values(2), c = values(3), y(kSize);
  std::vector<int16_t> offsets(kSize, 100);
  std::vector<int8_t> codes(kSize);
  std::vector<uint16_t> narrow(kSize);
  const std::vector<uint8_t> patterns(20 * 5, 5);
  linalg::kernels::Paley80 paley;
  paley.spectrum.fill({0.5f, 0.5f});
  paley.twists.fill({0.5f, 0.5f});
  paley.untwists.fill({0.5f, 0.5f});
  for (int64_t j = 0; j < 40; ++j)
    paley.pairs[static_cast<size_t>(j / 5)][static_cast<size_t>(j % 5)] = {j, j + 40, 1, -1};
  const std::vector<Kernel> kernels = {
      {"rms_norm", "model", "rms_norm",
       [&] { model::kernels::rms_norm(a.data(), b.data(), 1e-6f, y.data(), kSize); }},
      {"rms_norm_backward", "model", "rms_norm_backward",
       [&] {
         model::kernels::rms_norm_backward(a.data(), b.data(), c.data(), 0.5f, true, y.data(),
                                           kSize);
       }},
      {"rope", "model", "rope",
       [&] { model::kernels::rope(y.data(), a.data(), b.data(), false, kSize / 2); }},
      {"silu_mul", "model", "silu_mul",
       [&] { model::kernels::silu_mul(a.data(), b.data(), y.data(), kSize); }},
      {"silu_mul_backward", "model", "silu_mul_backward",
       [&] {
         model::kernels::silu_mul_backward(c.data(), a.data(), b.data(), a.data(), b.data(), kSize);
       }},
      {"softmax", "model", "softmax", [&] { model::kernels::softmax(a.data(), 0.1f, kSize); }},
      {"softmax_backward", "model", "softmax_backward",
       [&] { model::kernels::softmax_backward(a.data(), 0.1f, b.data(), kSize); }},
      {"add", "model", "add", [&] { model::kernels::add(a.data(), y.data(), kSize); }},
      {"l1_loss", "model", "l1_loss",
       [&] { model::kernels::l1_loss(a.data(), b.data(), 1.0f, y.data(), kSize); }},
      {"update_offsets", "autoround", "update_offsets",
       [&] {
         autoround::kernels::update_offsets(a.data(), b.data(), 0.1f, 7, 0.5f / 32767, 10,
                                            offsets.data(), kSize);
       }},
      {"quantize_with_offsets", "autoround", "fake_quantize",
       [&] {
         autoround::kernels::fake_quantize(a.data(), offsets.data(), 0.5f / 32767, 0.1f, 7,
                                           y.data(), kSize);
       }},
      {"range", "quant", "range", [&] { (void)quant::kernels::range(a.data(), kSize); }},
      {"quantize", "quant", "quantize",
       [&] { quant::kernels::quantize(a.data(), nullptr, 0.1f, 7, codes.data(), kSize); }},
      {"dequantize", "quant", "dequantize",
       [&] { quant::kernels::dequantize(codes.data(), 0.1f, y.data(), kSize); }},
      {"to_bf16", "linalg", "to_bf16",
       [&] { linalg::kernels::to_bf16(a.data(), narrow.data(), kSize); }},
      {"butterflies", "linalg", "butterflies",
       [&] { linalg::kernels::butterflies(a.data(), b.data(), kSize, kSize, false, a.data()); }},
      {"mix", "linalg", "mix",
       [&] { linalg::kernels::mix(a.data(), patterns.data(), 20, kSize / 20 / 8 * 8); }},
      {"mix_paley80", "linalg", "mix_paley80",
       [&] { linalg::kernels::mix_paley80(a.data(), patterns.data(), paley, kSize / 80 / 8 * 8); }},
  };
  for (const Kernel& kernel : kernels) {
    if (argc < 2) {
      std::printf("%s laos::%s::kernels::N_AVX2::%s(*\n", kernel.name, kernel.folder,
                  kernel.function);
    } else if (std::string(argv[1]) == kernel.name) {
      kernel.run();
      return 0;
    }
  }
  return argc < 2 ? 0 : 1;
}
