// A recipe, and its patterns on the linears of a model.
#include "recipe/recipe.h"
#include "fuzz.h"

#include <cstdio>

namespace {

std::vector<std::string> linears() {
  std::vector<std::string> names;
  for (int layer = 0; layer < 12; ++layer)
    for (const char* path : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
      names.push_back("model.layers." + std::to_string(layer) + "." + path);
  names.push_back("lm_head");
  return names;
}

void assign_all(const std::vector<laos::recipe::Strategy>& strategies) {
  static const std::vector<std::string> names = linears();
  const laos::recipe::Assignment assignment = laos::recipe::assign(strategies, names);
  for (const auto& [name, strategy] : assignment.strategy_of)
    LAOS_FUZZ_REQUIRE(strategy < strategies.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace laos;
  fuzz::expect_answer([&] {
    const recipe::Recipe read =
        recipe::parse_recipe(std::string(fuzz::text_of(data, size)), "recipe.yaml");
    // What goes into the checkpoint is the same recipe.
    try {
      LAOS_FUZZ_REQUIRE(recipe::parse_recipe(read.yaml, "again.yaml").yaml == read.yaml);
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\nof\n%s\n", error.what(), read.yaml.c_str());
      LAOS_FUZZ_REQUIRE(!"the recipe that is written can be read");
    }
    for (const recipe::Processor& processor : read.main.process) {
      if (const auto* quant = std::get_if<recipe::LinearQuant>(&processor.what))
        assign_all({quant->strategy});
      if (const auto* gptq = std::get_if<recipe::GptqQuant>(&processor.what))
        assign_all(gptq->strategies);
      if (const auto* autoround = std::get_if<recipe::AutoroundQuant>(&processor.what))
        assign_all(autoround->strategies);
    }
  });
  return 0;
}
