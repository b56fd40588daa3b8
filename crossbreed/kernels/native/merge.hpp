// One pass over a tensor: W = c0 W0 + sum(ci di), or an election among thinned deltas. Plain C++17, no headers of torch.
//
// `merge.py` instantiates `merge` for what a recipe needs: the number of experts, their dtypes, how each delta is
// thinned out, what elects. All of an element then happens in registers, and the compiler turns the one loop over a row
// into vector code. Each product and each sum is rounded by itself (-ffp-contract=off), in the order of
// `torch_blocks.py`: so the bits do not depend on the number of threads, on the processor, or on whether there is a
// compiler at all.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

enum class Keep { all, low, band, random, ranked, ranked_rescaled };  // as MaskKind in masks.py
constexpr bool is_random(Keep keep) { return keep == Keep::random || keep == Keep::ranked || keep == Keep::ranked_rescaled; }
enum class Consensus { affine, none, sum, count };
enum class Pick { mean, sum, max };

// Mirrored by ctypes structures in operands.py: keep the order.
struct Value {
  const void* data;            // full tensor, or fp32 delta: [rows, columns]
  const float* b;              // low rank: [rows, rank], scale and coefficient in it
  const float* a;              // low rank: [rank, columns]
  const float* by_row;         // coefficients [rows], or null
  const float* by_column;      // coefficients [columns], or null
  const uint16_t* random_u16;  // each element's random number, or null: drawn as the merge goes
  const uint8_t* ranks;        // where each element's magnitude stands in its row
  uint64_t key[2];             // of the Philox stream that random numbers are drawn from
  int64_t rank;
  int64_t ends[2];
  float weight, numbers[2];
};

struct TensorArgs {  // of a kernel, for one tensor
  const void* base;
  void* merged;
  const Value* values;
  int64_t rows, columns;
  float of_base, scale;
};

namespace {

constexpr int64_t kTile = 1024;  // elements that are merged at a time: what a low-rank product is buffered for

struct Bfloat16 {
  uint16_t bits;
};

inline float widen(Bfloat16 stored) {
  uint32_t bits = static_cast<uint32_t>(stored.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float widen(float stored) { return stored; }

inline void narrow(float value, Bfloat16& stored) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  stored.bits = static_cast<uint16_t>(value == value ? rounded : 0x7fc0);
}
inline void narrow(float value, float& stored) { stored = value; }

inline uint16_t magnitude_bits(Bfloat16 stored) { return stored.bits & 0x7fff; }
inline uint32_t magnitude_bits(float stored) {
  uint32_t bits;
  std::memcpy(&bits, &stored, 4);
  return bits & 0x7fffffff;
}
template <class Stored>
constexpr auto kInfinityBits = uint32_t{0x7f800000};
template <>
constexpr auto kInfinityBits<Bfloat16> = uint16_t{0x7f80};

#ifdef __FLT16_MAX__  // g++ 12 has it; without it float16 is merged in torch, and only that
inline float widen(_Float16 stored) { return static_cast<float>(stored); }
inline void narrow(float value, _Float16& stored) { stored = static_cast<_Float16>(value); }
inline uint16_t magnitude_bits(_Float16 stored) {
  uint16_t bits;
  std::memcpy(&bits, &stored, 2);
  return bits & 0x7fff;
}
template <>
constexpr auto kInfinityBits<_Float16> = uint16_t{0x7c00};
#endif

// What a delta is made from. `Stored` is the expert's dtype; a Delta is ready, or a row of B A.
template <class Stored, Keep keep, bool by_column = false>
struct Full {
  using Element = Stored;
  static constexpr Keep kKeep = keep;
  static constexpr bool kByColumn = by_column;
  static constexpr bool kIsDelta = false, kIsLowRank = false;
};
template <Keep keep, bool by_column = false>
struct Delta {
  using Element = float;
  static constexpr Keep kKeep = keep;
  static constexpr bool kByColumn = by_column;
  static constexpr bool kIsDelta = true, kIsLowRank = false;
};
template <Keep keep, bool by_column = false>
struct LowRank {
  using Element = float;
  static constexpr Keep kKeep = keep;
  static constexpr bool kByColumn = by_column;
  static constexpr bool kIsDelta = true, kIsLowRank = true;
};

// A value's part in a tile, everything that a loop needs in locals.
template <class Kind>
struct Part {
  const typename Kind::Element* data;
  const float* by_column;
  const uint16_t* random_u16;
  const uint8_t* ranks;
  float weight, first, second;

  inline float coefficient(int32_t j) const {
    if constexpr (Kind::kByColumn) return by_column[j];
    return weight;
  }

  inline float delta(int64_t j, float base) const {
    float value = widen(data[j]);
    return Kind::kIsDelta ? value : value - base;
  }

  inline float thinned(int32_t j, float delta) const {
    if constexpr (Kind::kKeep == Keep::low) {
      return __builtin_fabsf(delta) <= first ? 0.0f : delta;  // NaN is larger than anything, as when thresholds are found
    } else if constexpr (Kind::kKeep == Keep::band) {
      const float size = __builtin_fabsf(delta);
      return delta * ((!(size <= first)) & (size <= second) ? 1.0f : 0.0f);
    } else if constexpr (Kind::kKeep == Keep::random) {  // of whole numbers, below a limit is below its ceiling
      return (static_cast<int32_t>(random_u16[j]) < static_cast<int32_t>(std::ceil(first)) ? delta : 0.0f) * second;
    } else if constexpr (Kind::kKeep == Keep::ranked || Kind::kKeep == Keep::ranked_rescaled) {
      const float limit = first + static_cast<float>(ranks[j]) * second;
      const float kept = static_cast<float>(random_u16[j]) < limit ? delta : 0.0f;
      return Kind::kKeep == Keep::ranked ? kept : kept * (65536.0f / limit);
    } else {
      return delta;
    }
  }
};

inline float sign_of(float value) { return (value > 0.0f ? 1.0f : 0.0f) - (value < 0.0f ? 1.0f : 0.0f); }

template <Consensus consensus, Pick pick, class... Kinds>
inline float merged(int32_t j, float base, float of_base, float scale, const Part<Kinds>&... parts) {
  constexpr int kNum = sizeof...(Kinds);
  const float votes[kNum] = {parts.thinned(j, parts.delta(j, base)) *
                             parts.coefficient(j)...};
  const float weights[kNum] = {parts.weight...};
  if constexpr (consensus == Consensus::affine || consensus == Consensus::none) {
    float total = votes[0];
    for (int v = 1; v < kNum; ++v) total = total + votes[v];
    return consensus == Consensus::affine ? total + base * of_base : base + total * scale;
  } else {
    float elected = consensus == Consensus::sum ? votes[0] : sign_of(votes[0]);
    for (int v = 1; v < kNum; ++v) elected = elected + (consensus == Consensus::sum ? votes[v] : sign_of(votes[v]));
    const float sign = elected < 0.0f ? -1.0f : 1.0f;
    float total = 0.0f, divisor = 0.0f;
    for (int v = 0; v < kNum; ++v) {
      float agreeing = votes[v] * sign;
      agreeing = agreeing < 0.0f ? 0.0f : agreeing;  // NaN stays, and Inf wins its vote
      const float counted = agreeing > 0.0f ? weights[v] : 0.0f;
      if (v == 0) {
        total = agreeing;
        divisor = counted;
      } else {
        total = pick != Pick::max ? total + agreeing : (agreeing > total) | (agreeing != agreeing) ? agreeing : total;
        divisor = divisor + counted;
      }
    }
    if (pick == Pick::mean) total = total / (divisor == 0.0f ? 1.0f : divisor);
    return base + total * sign * scale;
  }
}

// A row of B A, in lanes that stay in registers over the rank.
inline void multiply(const Value& value, int64_t row, int64_t column, int64_t columns, int64_t n, float* out) {
  constexpr int64_t kLanes = 64;
  const float* b = value.b + row * value.rank;
  for (int64_t j = 0; j < n; j += kLanes) {
    const float* a = value.a + column + j;
    const int64_t rest = n - j < kLanes ? n - j : kLanes;
    float sum[kLanes] = {};
    for (int64_t r = 0; r < value.rank; ++r, a += columns) {
      if (rest == kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) sum[lane] = sum[lane] + b[r] * a[lane];
      } else {
        for (int64_t lane = 0; lane < rest; ++lane) sum[lane] = sum[lane] + b[r] * a[lane];
      }
    }
    std::memcpy(out + j, sum, rest * sizeof(float));
  }
}

// The elements of a Philox block: four words of 64 bits, 16 for each element.
constexpr int64_t kDrawn = 16;

// Draws blocks `first` to `last` of a stream, as numpy's generator does (Salmon et al. 2011; Philox 4x64-10).
inline void draw(const uint64_t* key, int64_t first, int64_t last, uint16_t* random_u16) {
  for (int64_t block = first; block < last; ++block, random_u16 += kDrawn) {
    uint64_t c[4] = {static_cast<uint64_t>(block) + 1, 0, 0, 0}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B97F4A7C15u, k1 += 0xBB67AE8584CAA73Bu) {
      const auto even = static_cast<unsigned __int128>(c[0]) * 0xD2E7470EE14C6C93u;
      const auto odd = static_cast<unsigned __int128>(c[2]) * 0xCA5A826395121157u;
      c[0] = static_cast<uint64_t>(odd >> 64) ^ c[1] ^ k0;
      c[1] = static_cast<uint64_t>(odd);
      c[2] = static_cast<uint64_t>(even >> 64) ^ c[3] ^ k1;
      c[3] = static_cast<uint64_t>(even);
    }
    std::memcpy(random_u16, c, sizeof c);
  }
}

// What a value needs beside its data for a tile: a row of its product, the tile's random numbers.
struct Buffer {
  float product[kTile];
  uint16_t random_u16[kTile + 2 * kDrawn];
};

// The next smaller magnitude. Below 0 is -1: then every element is above the threshold.
inline float below(float magnitude) { return magnitude > 0.0f ? std::nextafter(magnitude, 0.0f) : -1.0f; }

// How many of the next elements have the same thresholds.
inline int64_t until_next_end(const TensorArgs& args, std::size_t num_values, int64_t at, int64_t n) {
  for (std::size_t v = 0; v < num_values; ++v)
    for (int64_t end : args.values[v].ends)
      if (end > at && end - at < n) n = end - at;
  return n;
}

template <class Kind>
Part<Kind> part_of(const Value& value, const TensorArgs& args, int64_t row, int64_t column, int64_t n, Buffer* buffer) {
  const int64_t at = row * args.columns + column;
  auto threshold = [&](int which) {  // what equals it is inside before its end: there the threshold is a little lower
    const float magnitude = value.numbers[which];
    return at < value.ends[which] ? below(magnitude) : magnitude;
  };
  constexpr bool kHasThreshold = Kind::kKeep == Keep::low || Kind::kKeep == Keep::band;
  auto* data = static_cast<const typename Kind::Element*>(value.data) + at;
  if constexpr (Kind::kIsLowRank) {
    multiply(value, row, column, args.columns, n, buffer->product);
    data = buffer->product;
  }
  const uint16_t* random_u16 = value.random_u16 == nullptr ? nullptr : value.random_u16 + at;
  if constexpr (is_random(Kind::kKeep)) {
    if (random_u16 == nullptr) {
      draw(value.key, at / kDrawn, (at + n + kDrawn - 1) / kDrawn, buffer->random_u16);
      random_u16 = buffer->random_u16 + at % kDrawn;
    }
  }
  return Part<Kind>{data,
                    value.by_column == nullptr ? nullptr : value.by_column + column,
                    random_u16,
                    value.ranks == nullptr ? nullptr : value.ranks + at,
                    value.by_row == nullptr ? value.weight : value.by_row[row],
                    kHasThreshold ? threshold(0) : value.numbers[0],
                    Kind::kKeep == Keep::band ? threshold(1) : value.numbers[1]};
}

template <Consensus consensus, Pick pick, class Base, class Merged, class... Kinds>
bool merge_tile(const Base* base, Merged* out, int32_t n, float of_base, float scale, const Part<Kinds>... parts) {
  auto largest = magnitude_bits(*out = Merged{});
  for (int32_t j = 0; j < n; ++j) {
    narrow(merged<consensus, pick>(j, widen(base[j]), of_base, scale, parts...), out[j]);
    const auto bits = magnitude_bits(out[j]);
    largest = bits > largest ? bits : largest;
  }
  return largest >= kInfinityBits<Merged>;
}

// Merges the rows from `first` to `last` (or, where there is but one row, its columns from `first` to `last`) for several
// merges of the same sources, tile by tile: what one has read, the next finds in the cache. Marks in `bad` the merges whose
// result holds NaN or Inf.
template <Consensus consensus, Pick pick, class Base, class Merged, class... Kinds, std::size_t... index>
void merge(const TensorArgs* batch, int64_t batch_size, int64_t first, int64_t last, uint8_t* bad,
           std::index_sequence<index...>) {
  Buffer buffers[sizeof...(Kinds)];
  const int64_t rows = batch->rows, columns = batch->columns;
  for (int64_t row = rows == 1 ? 0 : first; row < (rows == 1 ? 1 : last); ++row) {
    const int64_t end = rows == 1 ? last : columns;
    for (int64_t column = rows == 1 ? first : 0, n; column < end; column += n) {
      const int64_t at = row * columns + column;
      n = end - column < kTile ? end - column : kTile;
      for (const TensorArgs* args = batch; args < batch + batch_size; ++args)
        n = until_next_end(*args, sizeof...(Kinds), at, n);
      for (const TensorArgs* args = batch; args < batch + batch_size; ++args)
        bad[args - batch] |= merge_tile<consensus, pick, Base, Merged, Kinds...>(
            static_cast<const Base*>(args->base) + at, static_cast<Merged*>(args->merged) + at, static_cast<int32_t>(n),
            args->of_base, args->scale, part_of<Kinds>(args->values[index], *args, row, column, n, buffers + index)...);
    }
  }
}

}  // namespace
