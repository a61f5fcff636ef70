// make_checkpoint: writes a synthetic Qwen3 checkpoint, for trying laos on the shapes of large
// models.
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "support/synthetic.h"

int main(int argc, char** argv) {
  std::string shape, out;
  int64_t num_layers = 0, vocab_size = 0;
  laos::test::SyntheticModel model;
  CLI::App app("Writes a Qwen3 checkpoint of random weights");
  app.add_option("--shape", shape, "the model whose layer shapes to use")
      ->required()
      ->check(CLI::IsMember(laos::test::qwen3_shapes()));
  app.add_option("--layers", num_layers, "number of decoder layers; 0: as published")
      ->check(CLI::Range(int64_t{0}, int64_t{10'000}));
  app.add_option("--vocab", vocab_size, "vocabulary, at least 257; 0: as published")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  app.add_option("--out", out, "directory to write into")->required();
  app.add_option("--seed", model.seed, "seed of the weights");
  app.add_option("--shard-bytes", model.max_shard_bytes, "bytes a shard stays under; 0: one file");
  app.add_flag("--transformers5", model.transformers5, "write config.json as transformers 5 does");
  CLI11_PARSE(app, argc, argv);
  try {
    model.config = laos::test::qwen3_config(shape, num_layers, vocab_size);
    laos::test::write_synthetic(model, out);
  } catch (const std::exception& error) {
    std::cerr << "make_checkpoint: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
