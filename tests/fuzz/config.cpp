// config.json
#include "hf/config.h"
#include "fuzz.h"
#include "hf/model_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace laos;
  static const auto path = fuzz::directory() / "config.json";
  fuzz::write_file(path, fuzz::text_of(data, size));
  fuzz::expect_answer([&] {
    const hf::Config config = hf::read_config(fuzz::directory().path());
    LAOS_FUZZ_REQUIRE(config.hidden_size > 0 && config.intermediate_size > 0);
    LAOS_FUZZ_REQUIRE(config.num_hidden_layers > 0 && config.vocab_size > 0);
    LAOS_FUZZ_REQUIRE(config.num_key_value_heads > 0);
    LAOS_FUZZ_REQUIRE(config.num_attention_heads % config.num_key_value_heads == 0);
    LAOS_FUZZ_REQUIRE(config.head_dim > 0 && config.head_dim % 2 == 0);
    LAOS_FUZZ_REQUIRE(config.rms_norm_eps > 0 && config.rope_theta > 0);
    if (config.num_hidden_layers > 100) return;
    for (const hf::WeightModule& module : hf::weight_modules(config))
      LAOS_FUZZ_REQUIRE(num_elements(module.shape) > 0);
  });
  return 0;
}
