// quant_model_description.json beside the weights that it should describe.
#include "core/threads.h"
#include "fuzz.h"
#include "hf/ascendv1.h"
#include "save/fixtures.h"
#include "save/inspect.h"

namespace {

using namespace laos;

std::filesystem::path prepare() {
  set_num_threads(1);
  const std::filesystem::path directory = fuzz::directory() / "w4a4";
  save::HandMade().write(directory);
  return directory;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto directory = prepare();
  fuzz::write_file(directory / hf::kDescriptionFile, fuzz::text_of(data, size));
  bool opens = false;
  fuzz::expect_answer([&] {
    const auto checkpoint = hf::AscendV1Checkpoint::open(directory);
    opens = true;
    for (const hf::WeightModule& module : hf::weight_modules(checkpoint.config())) {
      const scheme::Scheme* scheme = scheme::find(checkpoint.label(module.name));
      if (scheme == nullptr || scheme->is_float()) continue;
      LAOS_FUZZ_REQUIRE(checkpoint.codes(module.name).size() > 0);
      for (const scheme::LinearPart& part : scheme->parts) {
        if (part.suffix == "weight") continue;
        if (part.suffix == "quant_bias")
          (void)checkpoint.quant_bias(module.name);
        else
          (void)checkpoint.values(module.name, std::string(part.suffix));
      }
    }
  });
  // What an engine would load can be opened.
  if (save::inspect(directory).loads()) LAOS_FUZZ_REQUIRE(opens);
  return 0;
}
