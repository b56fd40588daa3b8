// What is found once of an expert's delta: its thresholds, where each element stands in its row. Goes after merge.hpp.
//
// Magnitudes are ordered as the bits of their fp32 form are, so they are separated digit by digit, by counting: 12 bits,
// then 10, then 9. Nothing is sorted, and threads add their counts.

#include <limits>

namespace {

// Which magnitudes are looked for, as far as their digits are known. All others share one number more than there are, so
// that no element has to be tested for being wanted.
struct Wanted {
  const int16_t* uppers;   // upper 12 bits -> their number among those wanted
  const int16_t* middles;  // that number and the next 10 bits -> number
  const int16_t* values;   // that number and the last 9 bits -> number
  int64_t num_values;
  const int64_t* firsts;   // a magnitude's first place, and the one after its last, in the list ...
  const int64_t* numbers;  // ... of which of its elements are looked for, counted from 0, rising
};

template <class Base, class Kind, class Visit>
void for_each_magnitude(const TensorArgs& args, int64_t first, int64_t last, Visit visit) {
  const auto part = part_of<Kind>(*args.values, args, 0, 0, 0, nullptr);
  auto* base = static_cast<const Base*>(args.base);
  uint32_t bits[kTile];
  for (int64_t start = first; start < last; start += kTile) {
    const int32_t n = static_cast<int32_t>(std::min(last - start, kTile));
    for (int32_t j = 0; j < n; ++j) bits[j] = magnitude_bits(part.delta(start + j, widen(base[start + j])));
    for (int32_t j = 0; j < n; ++j) visit(bits[j], start + j);
  }
}

// The place of a digit (0, 1 or 2) among the counts, which are grouped by the digits before.
template <int digit>
inline int64_t place_of(const Wanted& wanted, uint32_t bits) {
  if constexpr (digit == 0) return bits >> 19;
  if constexpr (digit == 1) return wanted.uppers[bits >> 19] << 10 | (bits >> 9 & 1023);
  if constexpr (digit == 2) return wanted.middles[place_of<1>(wanted, bits)] << 9 | (bits & 511);
}

template <class Base, class Kind>
void count(const TensorArgs& args, const Wanted& wanted, int64_t digit, int64_t first, int64_t last, uint32_t* counts) {
  auto by = [&](auto place) {
    for_each_magnitude<Base, Kind>(args, first, last, [&](uint32_t bits, int64_t) { ++counts[place(bits)]; });
  };
  if (digit == 0) by([&](uint32_t bits) { return place_of<0>(wanted, bits); });
  if (digit == 1) by([&](uint32_t bits) { return place_of<1>(wanted, bits); });
  if (digit == 2) by([&](uint32_t bits) { return place_of<2>(wanted, bits); });
}

// Collects what has a wanted first digit: magnitudes in the upper half of keys, places from the end in the lower.
template <class Base, class Kind>
void collect(const TensorArgs& args, const Wanted& wanted, int64_t first, int64_t last, int64_t* keys) {
  for_each_magnitude<Base, Kind>(args, first, last, [&](uint32_t bits, int64_t at) {
    if (wanted.uppers[bits >> 19] < wanted.num_values) *keys++ = static_cast<int64_t>(bits) << 32 | (args.columns - 1 - at);
  });
}

// Notes behind which places the elements are that are looked for; `before` says how many of each magnitude came earlier.
template <class Base, class Kind>
void locate(const TensorArgs& args, const Wanted& wanted, int64_t first, int64_t last, const int64_t* before, int64_t* ends) {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> next(wanted.num_values), left(wanted.num_values + 1, kNever);  // until the next that is looked for
  auto look_for_next = [&](int64_t value, int64_t seen) {
    left[value] = next[value] < wanted.firsts[value + 1] ? wanted.numbers[next[value]] - seen + 1 : kNever;
  };
  for (int64_t value = 0; value < wanted.num_values; ++value) {
    next[value] = wanted.firsts[value];
    while (next[value] < wanted.firsts[value + 1] && wanted.numbers[next[value]] < before[value]) ++next[value];
    look_for_next(value, before[value]);
  }
  for_each_magnitude<Base, Kind>(args, first, last, [&](uint32_t bits, int64_t at) {
    const int64_t value = wanted.values[place_of<2>(wanted, bits)];
    if (--left[value] > 0) return;
    const int64_t number = wanted.numbers[next[value]];
    while (next[value] < wanted.firsts[value + 1] && wanted.numbers[next[value]] == number) ends[next[value]++] = at + 1;
    look_for_next(value, number + 1);
  });
}

// Where each magnitude stands in its row, from 0 (the smallest) to 255; of equal ones the earlier stands lower. Sorts by
// one byte after the other, the lowest first.
template <class Base, class Kind>
void rank_rows(const TensorArgs& args, int64_t first, int64_t last, uint8_t* ranks) {
  const int64_t columns = args.columns;
  std::vector<uint64_t> keys(columns), sorted(columns);  // a magnitude's bits, and its column in the lower half
  std::vector<uint8_t> levels(columns);
  for (int64_t i = 0; i < columns; ++i) levels[i] = static_cast<uint8_t>(columns == 1 ? 128 : i * 255 / (columns - 1));
  for (int64_t row = first; row < last; ++row) {
    uint32_t counts[4][256] = {};
    for_each_magnitude<Base, Kind>(args, row * columns, (row + 1) * columns, [&](uint32_t bits, int64_t at) {
      const int64_t column = at - row * columns;
      keys[column] = static_cast<uint64_t>(bits) << 32 | static_cast<uint64_t>(column);
      for (int byte = 0; byte < 4; ++byte) ++counts[byte][bits >> 8 * byte & 255];
    });
    for (int byte = 0; byte < 4; ++byte) {
      uint32_t places[256], place = 0;
      for (int digit = 0; digit < 256; ++digit) {
        places[digit] = place;
        place += counts[byte][digit];
      }
      for (uint64_t key : keys) sorted[places[key >> (32 + 8 * byte) & 255]++] = key;
      keys.swap(sorted);
    }
    for (int64_t i = 0; i < columns; ++i) ranks[row * columns + static_cast<uint32_t>(keys[i])] = levels[i];
  }
}

}  // namespace
