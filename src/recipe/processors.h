// The types of processors: what each is called, its keys, where it may stand and how it is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipe/recipe.h"
#include "recipe/schema.h"

namespace laos::recipe {

enum class Pass { kPrior, kMain };  // spec.prior[].process, spec.process

// What the readers of one recipe share.
struct Reading {
  Report& report;
  size_t num_alternatives = 0;  // of all patterns so far
  bool has_unread_fit = false;  // a stage 1 may be there, but its mapping is wrong
};

using Options = decltype(Processor::what);

// A row of the table. Everything that a recipe, a message or the documentation's test knows of a
// type comes from its row.
struct ProcessorKind {
  std::string type;                    // "gptq_quant"
  std::vector<const MapSchema*> keys;  // of its mapping: one, or those its reader chooses from
  // Quantizers come last: whatever else changes weights stands in front of them.
  bool quantizes = false;
  // False: spec.process is its only place. True: its reader says which pass it belongs to.
  bool checks_pass = false;
  // The mapping `value` has a `type` of this name. Reports what is wrong; nullopt when it is so
  // wrong that the processor is left out.
  std::optional<Options> (*read)(Reading& reading, const Value& value, Pass pass) = nullptr;
};

// Each in its file of recipe/processors/. A new one is a file, and its name here and in the table
// of processors.cpp.
ProcessorKind adapt_rotation_kind();
ProcessorKind quarot_kind();
ProcessorKind head_rotation_kind();
ProcessorKind iter_smooth_kind();
ProcessorKind flatquant_kind();
ProcessorKind linear_quant_kind();
ProcessorKind gptq_quant_kind();
ProcessorKind autoround_quant_kind();

// The row of a type. A defect when there is none.
const ProcessorKind& processor_kind(const std::string& type);

// The mappings of all processors, `group` included.
std::vector<const MapSchema*> processor_schemas();

// A list of processors; those of a group stand in its place.
std::vector<Processor> read_processors(Reading& reading, const Value& value, Pass pass);

}  // namespace laos::recipe
