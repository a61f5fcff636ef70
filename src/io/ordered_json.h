// JSON objects that keep the order of their members, of which checkpoints have many.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace laos::io {

// Adds a member that the object is known not to have: object[key] would look at all there are,
// and 100,000 tensors would take minutes.
inline void add_member(nlohmann::ordered_json& object, std::string key,
                       nlohmann::ordered_json value) {
  object.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(std::move(key),
                                                                   std::move(value));
}

}  // namespace laos::io
