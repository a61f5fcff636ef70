// Checkpoints of every family against what transformers computes for them;
// tests/golden/families/make.py made both.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "eval/eval_model.h"
#include "eval/generate.h"
#include "io/safetensors.h"
#include "linalg/gemm.h"
#include "model/cached_layer.h"
#include "support/rounding.h"

namespace laos::eval {
namespace {

namespace fs = std::filesystem;
const fs::path kFamilies = LAOS_SOURCE_DIR "/tests/golden/families";

std::vector<std::string> all_cases() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFamilies))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class Family : public testing::TestWithParam<std::string> {
 protected:
  const io::TensorFiles golden_ =
      io::TensorFiles::open_files({kFamilies / GetParam() / "golden.safetensors"});
  const std::unique_ptr<EvalModel> model_ = open_eval_model(kFamilies / GetParam());

  std::vector<int32_t> ids() const {
    const Mat<float> values = to_f32(golden_.at("ids"));
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < values.size(); ++i)
      ids.push_back(static_cast<int32_t>(values.data()[i]));
    return ids;
  }
  // Of the last tokens, as many as the golden has.
  Mat<float> logits_of(const Mat<float>& rows, int64_t count) const {
    const Mat<float> head = to_f32(model_->lm_head());
    Mat<float> logits(count, head.rows());
    linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f,
                 rows.view().slice_rows(rows.rows() - count, rows.rows()), head.view(), 0.0f,
                 logits.view());
    return logits;
  }
};
INSTANTIATE_TEST_SUITE_P(Golden, Family, testing::ValuesIn(all_cases()), [](const auto& p) {
  std::string name = p.param;
  std::erase(name, '-');
  return name;
});

TEST_P(Family, GivesTheLogitsOfTransformers) {
  const Mat<float> expected = to_f32(golden_.at("logits"));
  const model::HiddenStates hidden = final_hidden(*model_, {ids()});
  Mat<float> rows(hidden.rows.rows(), hidden.rows.cols());
  std::copy_n(hidden.rows.data(), rows.size(), rows.data());
  const Mat<float> logits = logits_of(rows, expected.rows());
  const double tolerance =
      test::logit_tolerance(model_->config(), std::ssize(ids()), false, expected);
  for (int64_t i = 0; i < logits.size(); ++i)
    ASSERT_NEAR(logits.data()[i], expected.data()[i], tolerance) << i;
}

TEST_P(Family, GivesTheSameTokenByToken) {
  const hf::Config& config = model_->config();
  const std::vector<int32_t> sequence = ids();
  const auto n = std::ssize(sequence);
  const model::HiddenStates whole = final_hidden(*model_, {sequence});
  model::HiddenStates states = model::embed(model_->embed_tokens(), {sequence});
  const model::Rope<float> rope(config, n);
  const std::vector<int64_t> capacity = {n}, first = {0};
  model::KvCache cache(config, capacity);
  model::LayerSaved<float> saved(config, 1, false);
  std::vector<std::unique_ptr<EvalLayer>> layers;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    layers.push_back(model_->load_resident_layer(i));
  for (int64_t t = 0; t < n; ++t) {
    model::Ragged batch;
    batch.append(1);
    Mat<float> x(1, config.hidden_size), y(1, config.hidden_size);
    std::copy_n(states.rows.row(t), x.cols(), x.data());
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      const auto& layer = layers[static_cast<size_t>(i)];
      model::cached_layer_forward(config, i, layer->norms(), layer->linears(), rope, batch, first,
                                  std::as_const(x).view(), cache, saved, y.view());
      std::swap(x, y);
    }
    cache.extend(0, 1);
    std::copy_n(x.data(), x.cols(), states.rows.row(t));
  }
  normalize_final(*model_, states);
  for (int64_t i = 0; i < n * config.hidden_size; ++i)
    ASSERT_NEAR(states.rows.data()[i], whole.rows.data()[i], 1e-4) << i;
}

}  // namespace
}  // namespace laos::eval
