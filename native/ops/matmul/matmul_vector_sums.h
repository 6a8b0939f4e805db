// Sums of codes times activations over runs of quads, the innermost loops of matmul_vector.h, over Line, Quad, Partial
// and RowPair of dot_<isa>.h.

namespace lowbit::LOWBIT_ISA {
namespace {

// Quad J of a run of quads that begins on a line. The loads of neighbouring quads are one.
template <LineFormat Format, int J>
LOWBIT_INLINE Line codes_of(const std::uint8_t* run) {
  if constexpr (Format == LineFormat::kBits4) {
    return field<4 * (J % 2), 15>(load_line(run + kLineBytes * (J / 2)));
  } else if constexpr (Format == LineFormat::kBits2) {
    return field<2 * (J % 4), 3>(load_line(run + kLineBytes * (J / 4)));
  } else if constexpr (Format == LineFormat::kBits3) {
    return either(field<2 * (J % 4), 3>(load_line(run + kLineBytes * (J / 4))),
                  third_bit<J>(load_line(run + kLineBytes * 2)));
  } else if constexpr (Format == LineFormat::kBits8) {
    return load_wide_line(run + kLineBytes * J);
  } else {
    return load_line(run + kLineBytes * J);
  }
}

template <LineFormat Format>
constexpr std::size_t bytes_of_quads(std::size_t quads) {
  switch (Format) {
    case LineFormat::kBits2:
      return quads * (kLineBytes / 4);
    case LineFormat::kBits3:
      return quads / 8 * (3 * kLineBytes);
    case LineFormat::kBits4:
      return quads * (kLineBytes / 2);
    default:
      return quads * kLineBytes;
  }
}

template <LineFormat Format>
using PartialOf = Partial<Format == LineFormat::kBits8>;

template <LineFormat Format, int Rows, int Tiles, int J, int Quads>
LOWBIT_INLINE void add_quads(PartialOf<Format> (&sums)[Rows][Tiles], const std::uint8_t* run, std::size_t tile_bytes,
                             const std::int32_t* quads) {
  if constexpr (J < Quads) {
    Line codes[Tiles];
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) codes[t] = codes_of<Format, J>(run + static_cast<std::size_t>(t) * tile_bytes);
    LOWBIT_UNROLL
    for (int r = 0; r < Rows; r++) {
      const Quad quad = load_quad(quads + J * Rows + r);
      LOWBIT_UNROLL
      for (int t = 0; t < Tiles; t++) sums[r][t] = dot(sums[r][t], codes[t], quad);
    }
    add_quads<Format, Rows, Tiles, J + 1, Quads>(sums, run, tile_bytes, quads);
  }
}

// sums += codes · activations over `Quads` quads.
template <LineFormat Format, int Rows, int Tiles, int Quads>
LOWBIT_INLINE void add_run(I32x16 (&sums)[Rows][Tiles], const std::uint8_t* run, std::size_t tile_bytes,
                           const std::int32_t* quads) {
  PartialOf<Format> partial[Rows][Tiles];
  LOWBIT_UNROLL
  for (int r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) partial[r][t] = PartialOf<Format>::begin(sums[r][t]);
  }
  add_quads<Format, Rows, Tiles, 0, Quads>(partial, run, tile_bytes, quads);
  LOWBIT_UNROLL
  for (int r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) sums[r][t] = partial[r][t].end(sums[r][t]);
  }
}

constexpr int kRun = 8;  // quads; what is left of a segment is a run of half of it

// Where an instruction set has a form of its own for the sums of two rows (kRowPairs), sums have it from the first run
// to the last, and are added to two quads at a time.
template <bool Wide>
struct RowPair;
template <LineFormat Format>
using PairOf = RowPair<Format == LineFormat::kBits8>;

template <LineFormat Format, int Rows, int Tiles, int J, int Quads>
LOWBIT_INLINE void add_pair_quads(PairOf<Format> (&sums)[Rows / 2][Tiles], const std::uint8_t* run,
                                  std::size_t tile_bytes, const std::int32_t* quads) {
  if constexpr (J < Quads) {
    typename PairOf<Format>::Codes codes[Tiles];
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) {
      const std::uint8_t* const tile = run + static_cast<std::size_t>(t) * tile_bytes;
      codes[t] = PairOf<Format>::codes(codes_of<Format, J>(tile), codes_of<Format, J + 1>(tile));
    }
    LOWBIT_UNROLL
    for (int r = 0; r < Rows; r += 2) {
      const auto activations = PairOf<Format>::activations(quads + J * Rows + r, quads + (J + 1) * Rows + r);
      LOWBIT_UNROLL
      for (int t = 0; t < Tiles; t++) sums[r / 2][t] = sums[r / 2][t].plus(codes[t], activations);
    }
    add_pair_quads<Format, Rows, Tiles, J + 2, Quads>(sums, run, tile_bytes, quads);
  }
}

template <LineFormat Format, int Rows, int Tiles>
LOWBIT_INLINE void add_quads_in_pairs(I32x16 (&sums)[Rows][Tiles], const std::uint8_t* codes, std::size_t tile_bytes,
                                      const std::int32_t* quads, std::size_t count) {
  PairOf<Format> pairs[Rows / 2][Tiles];
  LOWBIT_UNROLL
  for (int r = 0; r < Rows; r += 2) {
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) pairs[r / 2][t] = PairOf<Format>::begin(sums[r][t], sums[r + 1][t]);
  }
  LOWBIT_NO_UNROLL
  for (; count >= kRun; count -= kRun) {
    add_pair_quads<Format, Rows, Tiles, 0, kRun>(pairs, codes, tile_bytes, quads);
    codes += bytes_of_quads<Format>(kRun);
    quads += kRun * Rows;
  }
  if constexpr (Format != LineFormat::kBits3) {
    if (count != 0) add_pair_quads<Format, Rows, Tiles, 0, kRun / 2>(pairs, codes, tile_bytes, quads);
  }
  LOWBIT_UNROLL
  for (int r = 0; r < Rows; r += 2) {
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) {
      sums[r][t] = pairs[r / 2][t].first();
      sums[r + 1][t] = pairs[r / 2][t].second();
    }
  }
}

// sums += codes · activations over `count` quads, a multiple of 4.
template <LineFormat Format, int Rows, int Tiles>
LOWBIT_INLINE void add_quads_of(I32x16 (&sums)[Rows][Tiles], const std::uint8_t* codes, std::size_t tile_bytes,
                                const std::int32_t* quads, std::size_t count) {
  if constexpr (kRowPairs && Rows % 2 == 0) {
    add_quads_in_pairs<Format>(sums, codes, tile_bytes, quads, count);
  } else {
    LOWBIT_NO_UNROLL
    for (; count >= kRun; count -= kRun) {
      add_run<Format, Rows, Tiles, kRun>(sums, codes, tile_bytes, quads);
      codes += bytes_of_quads<Format>(kRun);
      quads += kRun * Rows;
    }
    if constexpr (Format != LineFormat::kBits3) {
      if (count != 0) add_run<Format, Rows, Tiles, kRun / 2>(sums, codes, tile_bytes, quads);
    }
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
