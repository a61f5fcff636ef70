// JSON values of a hundred thousand members and more, as checkpoints have them.
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

// Empties `value`, a call of its own for each level.
template <class Json>
void clear_deeply(Json& value) noexcept {
  if (auto* const object = value.template get_ptr<typename Json::object_t*>()) {
    for (auto& member : *object) clear_deeply(member.second);
    object->clear();
  } else if (auto* const array = value.template get_ptr<typename Json::array_t*>()) {
    for (Json& element : *array) clear_deeply(element);
    array->clear();
  }
}

// A value whose end takes no memory. nlohmann's destructor asks for as much as all members need,
// and ends the program where there is none.
template <class Json>
struct LargeJson {
  Json value;

  ~LargeJson() { clear_deeply(value); }
};

}  // namespace laos::io
