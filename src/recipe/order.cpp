#include "recipe/order.h"

#include "recipe/processors.h"

namespace laos::recipe {

void check_order(Report& report, const Value& spec, const Recipe& recipe, bool has_unread_fit) {
  const Processor* fit = nullptr;
  for (const Stage& stage : recipe.prior) {
    for (const Processor& processor : stage.process) {
      if (!std::holds_alternative<FitRotation>(processor.what)) continue;
      if (fit != nullptr) {
        report.problem(processor.location,
                       "a second stage 1 of adapt_rotation would replace the rotation of the first",
                       "keep one of them");
      }
      fit = &processor;
    }
  }
  const Processor* rotate = nullptr;
  const Processor* quantizer = nullptr;
  const Processor* heads = nullptr;
  const Processor* pairs = nullptr;
  for (const Processor& processor : recipe.main.process) {
    if (processor_kind(processor.type).quantizes) {
      if (quantizer == nullptr) quantizer = &processor;
      continue;
    }
    const bool is_rotation = std::holds_alternative<Rotate>(processor.what);
    if (is_rotation && rotate != nullptr) {
      report.problem(processor.location, "a second rotation would rotate the weights again",
                     "keep one adapt_rotation stage 2 or one quarot");
    } else if (quantizer != nullptr) {
      report.problem(processor.location,
                     is_rotation ? "the rotation stands behind a quantizer: it would rotate "
                                   "weights that are quantized already"
                                 : processor.type +
                                       " stands behind a quantizer: it would change weights that "
                                       "are quantized already",
                     "move it in front of " + quantizer->location.key);
    }
    if (std::holds_alternative<Flatquant>(processor.what)) {
      if (pairs != nullptr)
        report.problem(processor.location,
                       "a second flatquant would transform what is transformed already",
                       "name all linears in one");
      else if (rotate != nullptr && std::get<Rotate>(rotate->what).options.online)
        report.problem(processor.location,
                       "flatquant stands behind an online rotation: engines apply one of the two",
                       "write online: false in " + rotate->location.key);
      pairs = &processor;
    } else if (pairs != nullptr && quantizer == nullptr) {
      report.problem(processor.location,
                     processor.type +
                         " stands behind flatquant: it would change what that was "
                         "fitted to",
                     "move it in front of " + pairs->location.key);
    }
    if (is_rotation) rotate = &processor;
    if (std::holds_alternative<HeadRotation>(processor.what)) heads = &processor;
    if (const auto* smooth = std::get_if<IterSmooth>(&processor.what)) {
      const bool online = rotate != nullptr && std::get<Rotate>(rotate->what).options.online;
      if (online && (smooth->options.ov || smooth->options.up_down))
        report.problem(
            processor.location,
            "`ov` and `up-down` scale channels that the online rotation in front of "
            "them has mixed",
            "move iter_smooth in front of " + rotate->location.key + ", or keep norm-linear only");
    }
  }
  if (heads != nullptr && rotate != nullptr) {
    if (std::get<Rotate>(rotate->what).options.online)
      report.problem(heads->location,
                     "head_rotation fits to what each value head gives, which the online rotation "
                     "mixes across heads",
                     "write online: false, or remove head_rotation");
    else if (heads < rotate)
      report.warn(spec,
                  "the rotation behind head_rotation turns value heads away from what was "
                  "fitted: move head_rotation behind it");
  }
  const bool uses_fitted = rotate != nullptr && std::get<Rotate>(rotate->what).options.use_fitted;
  if (uses_fitted && fit == nullptr && !has_unread_fit) {
    report.problem(rotate->location,
                   "stage 2 of adapt_rotation needs the rotation that stage 1 fits, and "
                   "spec.prior has no stage 1",
                   "add `prior: [{process: [{type: adapt_rotation, stage: 1}]}]`, or write "
                   "`type: quarot` for the Hadamard rotation that is not fitted");
  }
  if (fit != nullptr && !uses_fitted) {
    report.warn(spec, "stage 1 of adapt_rotation fits a rotation that no stage 2 applies");
  }
}

}  // namespace laos::recipe
