// The kernel of 9.0 for many rows of a with scales in blocks.
//
// A block of scales ends every 128 values of K, and there the sums so far have to be scaled and
// added in fp32 by ordinary instructions. So that tensor cores do not wait for them, each warpgroup
// has two sets of sums: the MMAs of one block of K run while those of the block before are added.
// Two neighbouring blocks compute tiles of the same columns and fetch the weight for each other.
// Items that would leave most of the device idle in a last round are cut along K.
#pragma once

#include "common/async_copy.cuh"
#include "common/pipeline.cuh"
#include "common/shared_memory.cuh"
#include "scaled_mm/collective.cuh"
#include "scaled_mm/prepare.h"
#include "scaled_mm/sm90_block_tiles.h"
#include "scaled_mm/sm90_wgmma.cuh"

namespace kernelpkg {

// An item's first row and column of c.
struct BlockTilesPlace {
  int row, column;
};

__device__ __forceinline__ BlockTilesPlace block_tiles_place(const BlockTilesParams& p, int item,
                                                             int columns) {
  const int first = item / (kBlockTilesGroup * p.column_items) * kBlockTilesGroup;
  const int rest = item - first * p.column_items;
  const int rows = min(kBlockTilesGroup, p.row_items - first);
  return {(first + rest % rows) * kBlockTilesCluster * kBlockTilesRows, rest / rows * columns};
}

constexpr int kBlockTilesSumThreads = 256;
constexpr int kBlockTilesSumColumns = 4;  // of a thread: 16 bytes of each part, 8 of c

// Adds up the parts of the items that were cut along K, in the order of K. A thread computes four
// neighbouring columns of a row; the last ones may run into the columns from N to ldc.
struct BlockTilesSumParams {
  BlockTilesParams tiles;
  uint16_t* c;
  int64_t ldc;
};

template <class Gate, int kColumns>
__global__ void __launch_bounds__(kBlockTilesSumThreads)
    scaled_mm_block_tiles_sum(__grid_constant__ const BlockTilesSumParams params) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
  } else {
    constexpr int kRows = kBlockTilesCluster * kBlockTilesRows;
    constexpr int kThreads = kRows * kColumns / kBlockTilesSumColumns;  // of an item
    wait_for_prior_kernels();
    const BlockTilesParams& p = params.tiles;
    const int thread = static_cast<int>(blockIdx.x * kBlockTilesSumThreads + threadIdx.x);
    const int item = thread / kThreads, place = thread % kThreads * kBlockTilesSumColumns;
    const BlockTilesPlace at = block_tiles_place(p, p.whole + item, kColumns);
    const int row = at.row + place / kColumns, column = at.column + place % kColumns;
    if (row >= p.m || column >= p.n) return;
    const float* part = p.sums + int64_t{item} * p.parts * kRows * kColumns + place;
    float4 sum = *reinterpret_cast<const float4*>(part);
    for (int i = 1; i < p.parts; ++i) {
      part += kRows * kColumns;
      const float4 next = *reinterpret_cast<const float4*>(part);
      sum.x += next.x;
      sum.y += next.y;
      sum.z += next.z;
      sum.w += next.w;
    }
    cutlass::Array<float, kBlockTilesSumColumns> out{sum.x, sum.y, sum.z, sum.w};
    if (p.bias != nullptr) {
#pragma unroll
      for (int i = 0; i < kBlockTilesSumColumns; ++i)
        out[i] += from_bits16(__ldg(p.bias + min(column + i, p.n - 1)), p.half);
    }
    const auto bits = to_bits16(out, p.half);
    *reinterpret_cast<uint2*>(params.c + row * params.ldc + column) =
        reinterpret_cast<const uint2&>(bits);
  }
}

template <class ElementAct, Scales kScales, int kColumns>
struct Sm90BlockTiles {
  static_assert(kScales == Scales::kBlock && kColumns == kScaleBlock,
                "a tile has one scale of the weight at a time");
  using Gate = gates::scaled_mm_sm90;
  using Params = BlockTilesParams;
  static constexpr int kThreads = kBlockTilesThreads;
  static constexpr int kMinBlocks = 1;
  static constexpr size_t kSharedMemory = block_tiles_shared(kColumns);
  static constexpr int kStages = block_tiles_stages(kColumns);
  static constexpr int kStageBytes = block_tiles_stage_bytes(kColumns);
  static constexpr int kRowBytes = kScaleBlock;
  static constexpr int kTeamRows = kBlockTilesTeamRows;  // of an MMA as well
  static constexpr int kTeams = kBlockTilesRows / kTeamRows;
  static constexpr int kSums = kColumns / 2;  // accumulators of a thread

  static size_t workspace_bytes(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    BlockTilesParams divided = {};
    block_tiles_divide(args.m, args.n, args.k, kColumns, device.sm_count, &divided);
    return block_tiles_sum_bytes(divided, kColumns);
  }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    BlockTilesSumParams params = {};
    KERNELPKG_RETURN_IF_ERROR(
        block_tiles_launch(name, kernel, kColumns, args, device, &params.tiles));
    if (params.tiles.parts == 1) return Status();
    params.c = static_cast<uint16_t*>(args.c);
    params.ldc = args.ldc;
    const int items = (params.tiles.works - params.tiles.whole) / params.tiles.parts;
    constexpr int kItemBlocks = kBlockTilesCluster * kBlockTilesRows * kColumns /
                                kBlockTilesSumColumns / kBlockTilesSumThreads;
    return second_kernel<&scaled_mm_block_tiles_sum<Gate, kColumns>>(
        "scaled_mm_block_tiles_sum", dim3(static_cast<unsigned>(items * kItemBlocks)),
        kBlockTilesSumThreads, /*overlap=*/true, params, args, device);
  }

  // A ring of stages, in each a block of K: 128 rows of a, then kColumns of the weight.
  struct Ring {
    static constexpr uint32_t kWeight = kBlockTilesRows * kRowBytes;  // from a to it
    uint32_t stages, barriers;
    int stage = 0;
    uint32_t parity = 0;

    explicit __device__ __forceinline__ Ring(const char* shared_memory) {
      stages = shared_address(shared_memory);
      barriers = stages + kStages * kStageBytes + block_tiles_output_bytes(kColumns);
    }
    __device__ __forceinline__ uint32_t a() const { return stages + stage * kStageBytes; }
    __device__ __forceinline__ uint32_t b() const { return a() + kWeight; }
    __device__ __forceinline__ uint32_t full() const { return barriers + 16 * stage; }
    __device__ __forceinline__ uint32_t empty() const { return full() + 8; }
    __device__ __forceinline__ void advance() {
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  };

  static __device__ __forceinline__ int k_blocks(const Params& p) {
    return (p.k + kScaleBlock - 1) / kScaleBlock;
  }

  // The works of a block, one after the other.
  struct Works {
    const Params& params;
    int work;

    explicit __device__ __forceinline__ Works(const Params& p)
        : params(p), work(static_cast<int>(blockIdx.x) / kBlockTilesCluster) {}
    __device__ __forceinline__ bool more() const { return work < params.works; }
    __device__ __forceinline__ void advance() {
      work += static_cast<int>(gridDim.x) / kBlockTilesCluster;
    }
    // Whether it is a part of an item, and which.
    __device__ __forceinline__ bool cut() const { return work >= params.whole; }
    __device__ __forceinline__ int part() const {
      return cut() ? (work - params.whole) % params.parts : 0;
    }
    __device__ __forceinline__ BlockTilesPlace place() const {
      const int item =
          cut() ? params.whole + (work - params.whole) / params.parts : work;
      BlockTilesPlace at = block_tiles_place(params, item, kColumns);
      at.row += static_cast<int>(blockIdx.x) % kBlockTilesCluster * kBlockTilesRows;
      return at;
    }
    // The blocks of K are those from begin() to end().
    __device__ __forceinline__ int begin() const { return bound(part()); }
    __device__ __forceinline__ int end() const {
      return cut() ? bound(part() + 1) : k_blocks(params);
    }
    __device__ __forceinline__ int bound(int part) const {
      return k_blocks(params) * part / params.parts;
    }
  };

  static __device__ __forceinline__ void run(const Params& params, const char* shared_memory) {
    if (threadIdx.x == 0) {
      for (Ring ring(shared_memory); ring.parity == 0; ring.advance()) {
        barrier_init(ring.full(), 1);
        barrier_init(ring.empty(), 4 * kTeams * kBlockTilesCluster);  // warps of both blocks
      }
      barrier_init_done();
    }
    ptx::cluster_arrive<true>();
    ptx::cluster_wait();
    allow_dependent_launch();
    // The same for all lanes, which the compiler cannot know.
    const int team = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0) - 1;
    if (team < 0) {
      ptx::give_up_registers<24>();
      if (threadIdx.x < 32) produce(params, Ring(shared_memory), Works(params));
    } else {
      ptx::take_registers<240>();
      const uint32_t output = shared_address(shared_memory) + kStages * kStageBytes;
      consume(params, team, output, Ring(shared_memory), Works(params));
    }
    // The neighbour may still send, or be told that a stage is free.
    ptx::cluster_arrive<false>();
    ptx::cluster_wait();
  }

  // One warp; all its lanes go through the motions, one issues.
  static __device__ __forceinline__ void produce(const Params& p, Ring ring, Works works) {
    if (elect_one()) {
      ptx::prefetch_tensor_map(p.a);
      ptx::prefetch_tensor_map(p.b);
    }
    __syncwarp();
    wait_for_prior_kernels();
    constexpr int kShare = kColumns / kBlockTilesCluster;
    const int rank = ptx::cluster_rank();
    for (; works.more(); works.advance()) {
      const BlockTilesPlace place = works.place();
      const int row0 = place.row, column0 = place.column + rank * kShare;
      const int end = works.end();
      for (int block = works.begin(); block < end; ++block) {
        barrier_wait(ring.empty(), ring.parity ^ 1);
        if (elect_one()) {
          barrier_arrive_expecting(ring.full(), kStageBytes);
          ptx::tensor_copy(ring.a(), p.a, block * kScaleBlock, row0, ring.full());
          ptx::tensor_copy_to_all(ring.b() + rank * kShare * kRowBytes, p.b, block * kScaleBlock,
                                  column0, ring.full(), (1 << kBlockTilesCluster) - 1);
        }
        __syncwarp();
        ring.advance();
      }
    }
  }

  // A thread's rows of its warpgroup's are first_row() and 8 further; its columns 8 j +
  // first_column() and the next.
  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
  }
  static __device__ __forceinline__ int first_column() {
    return static_cast<int>(threadIdx.x % 4 * 2);
  }

  // A load that stays where it is written, early enough to hide how long it takes.
  static __device__ __forceinline__ float load_now(const float* from) {
    float value;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(from));
    return value;
  }

  // Blocks of K in one turn of the loop. The compiler lets MMAs run past other work within a turn
  // alone, so between turns tensor cores depend on the other warpgroup.
  static constexpr int kTurn = 4;

  // The scales of a turn. Four threads have the same rows, and each keeps those of one block of K:
  // of its rows, and of the tile's columns.
  struct Kept {
    float rows[2], columns;
  };

  struct Scaling {
    const float* rows[2];
    const float* columns;
    int row_step, column_step;

    __device__ __forceinline__ Scaling(const Params& p, int row0, int column0)
        : columns(p.b_scales + column0 / kScaleBlock * p.b_scale_column),
          row_step(p.a_scale_block),
          column_step(p.b_scale_block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        rows[half] = p.a_scales + min(row0 + first_row() + 8 * half, p.m - 1) * p.a_scale_row;
        asm volatile("" : "+l"(rows[half]));  // worked out once
      }
    }

    // Those of the turn from `block` on; past `last`, which is the work's, its own stand in.
    __device__ __forceinline__ Kept keep(int block, int last) const {
      const int mine = min(block + static_cast<int>(threadIdx.x) % kTurn, last);
      Kept out;
      out.columns = load_now(columns + int64_t{mine} * column_step);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        out.rows[half] = load_now(rows[half] + int64_t{mine} * row_step);
      return out;
    }
  };

  using Sums = float[kSums];

  // Where the first stage has a warpgroup's rows of a, and the weight.
  struct Operands {
    uint64_t a, b;

    __device__ __forceinline__ Operands(const Ring& ring, int team)
        : a(ptx::swizzled_operand(ring.stages + team * kTeamRows * kRowBytes)),
          b(ptx::swizzled_operand(ring.stages + Ring::kWeight)) {}
  };

  static __device__ __forceinline__ void multiply(const Operands& first, int stage, Sums& part) {
    const uint64_t a = ptx::operand_further(first.a, stage * (kStageBytes / 16));
    const uint64_t b = ptx::operand_further(first.b, stage * (kStageBytes / 16));
    ptx::mma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::mma_async_fp8<ElementAct, E4M3, kColumns>(part, ptx::operand_further(a, 2 * step),
                                                     ptx::operand_further(b, 2 * step), step > 0);
    }
    ptx::mma_commit();
  }

  // Waits for the MMAs but for the last kPending groups. The sums are named, so that the compiler
  // does not read them sooner.
  template <int kPending>
  static __device__ __forceinline__ void wait(Sums& part) {
    ptx::mma_wait<kPending>();
#pragma unroll
    for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(part[i])::"memory");
  }

  // The factors of a thread's rows in one block of K.
  struct Factors {
    float of[2];
  };

  // kept: what this thread keeps of the factors of a turn.
  static __device__ __forceinline__ Factors share(const Factors& kept, int block) {
    return {__shfl_sync(~0u, kept.of[0], block, kTurn), __shfl_sync(~0u, kept.of[1], block, kTurn)};
  }

  static __device__ __forceinline__ void add(const Factors& factors, const Sums& part, Sums& sums) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = fmaf(factors.of[i / 2 % 2], part[i], sums[i]);
  }

  // In every block of the cluster one thread of a warp says that it is done with a stage.
  struct Releases {
    uint32_t first;  // the first stage's barrier in the block that this thread tells
    bool mine;

    explicit __device__ __forceinline__ Releases(const Ring& ring)
        : mine(threadIdx.x % 32 < kBlockTilesCluster) {
      first = ptx::cluster_address(ring.barriers + 8, mine ? threadIdx.x % 32 : 0);
    }
    __device__ __forceinline__ void operator()(int stage) const {
      if (mine) ptx::barrier_arrive_cluster(first + 16 * stage);
    }
  };

  // What a warpgroup goes through the works with.
  struct Walk {
    Ring ring;
    Operands operands;
    Releases release;

    __device__ __forceinline__ Walk(const Ring& from, int team)
        : ring(from), operands(from, team), release(from) {}
  };

  // kCount blocks of K, whose scales are `scales`, which becomes those of the turn from `next` on.
  template <int kCount>
  static __device__ __forceinline__ void add_up(Walk& walk, const Scaling& scaling, int next,
                                                int last, Kept& scales, Sums& sums) {
    Ring& ring = walk.ring;
    Sums parts[2];
    int before = ring.stage;
    barrier_wait(ring.full(), ring.parity);
    multiply(walk.operands, ring.stage, parts[0]);
    const Factors kept = {scales.rows[0] * scales.columns, scales.rows[1] * scales.columns};
    scales = scaling.keep(next, last);
#pragma unroll
    for (int i = 1; i < kCount; ++i) {
      ring.advance();
      barrier_wait(ring.full(), ring.parity);
      multiply(walk.operands, ring.stage, parts[i % 2]);
      const Factors factors = share(kept, i - 1);
      wait<1>(parts[(i - 1) % 2]);
      walk.release(before);
      before = ring.stage;
      add(factors, parts[(i - 1) % 2], sums);
    }
    const Factors factors = share(kept, kCount - 1);
    wait<0>(parts[(kCount - 1) % 2]);
    walk.release(before);
    ring.advance();
    add(factors, parts[(kCount - 1) % 2], sums);
  }

  static __device__ __forceinline__ void consume(const Params& p, int team, uint32_t output,
                                                 const Ring& ring, Works works) {
    Walk walk(ring, team);
    wait_for_prior_kernels();
    for (; works.more(); works.advance()) {
      const BlockTilesPlace place = works.place();
      int block = works.begin();
      const int last = works.end() - 1;
      const int row0 = place.row + team * kTeamRows;
      const Scaling scaling(p, row0, place.column);
      Sums sums = {};
      Kept scales = scaling.keep(block, last);
      for (; block + kTurn <= last + 1; block += kTurn)
        add_up<kTurn>(walk, scaling, block + kTurn, last, scales, sums);
      const int left = last + 1 - block;
      if (left == 1) add_up<1>(walk, scaling, block, last, scales, sums);
      if (left == 2) add_up<2>(walk, scaling, block, last, scales, sums);
      if (left == 3) add_up<3>(walk, scaling, block, last, scales, sums);
      if (works.cut())
        keep(p, team, works.work - p.whole, sums);
      else
        store(p, team, output, row0, place.column, sums);
    }
    if (threadIdx.x % 128 == 0) ptx::store_wait_read();
  }

  // The warpgroup's sums of a part of K, to memory.
  static __device__ __forceinline__ void keep(const Params& p, int team, int work,
                                              const Sums& sums) {
    const int rank = static_cast<int>(blockIdx.x) % kBlockTilesCluster;
    const int row = (work * kBlockTilesCluster + rank) * kBlockTilesRows + team * kTeamRows +
                    first_row();
    float* to = p.sums + int64_t{row} * kColumns + first_column();
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to + 8 * half * kColumns + 8 * j) =
            make_float2(sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]);
      }
    }
  }

  // The warpgroup's rows of c, by way of shared memory, where 16 bytes of eight neighbouring rows
  // lie as the 128-byte swizzle has them: what a warp writes at once is in different banks.
  static __device__ __forceinline__ void store(const Params& p, int team, uint32_t output, int row0,
                                               int column0, const Sums& sums) {
    const bool first = threadIdx.x % 128 == 0;
    if (first) ptx::store_wait_read();
    sync_team(team);
    constexpr int kBoxBytes = kBlockTilesTeamRows * kRowBytes;
    const uint32_t to = output + team * (kColumns / kBlockTilesBox) * kBoxBytes;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      float bias[2] = {};
      if (p.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = min(column0 + 8 * j + first_column() + i, p.n - 1);
          bias[i] = from_bits16(__ldg(p.bias + column), p.half);
        }
      }
      const uint32_t box = to + 8 * j / kBlockTilesBox * kBoxBytes;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto two = to_bits16(cutlass::Array<float, 2>{sums[4 * j + 2 * half] + bias[0],
                                                            sums[4 * j + 2 * half + 1] + bias[1]},
                                   p.half);
        const int row = first_row() + 8 * half;
        const int chunk = (j % (kBlockTilesBox / 8)) ^ (row % 8);
        store_shared_4(box + row * kRowBytes + 16 * chunk + 2 * first_column(),
                       reinterpret_cast<const uint32_t&>(two));
      }
    }
    ptx::publish_to_copies();
    sync_team(team);
    if (first) {
#pragma unroll
      for (int box = 0; box < kColumns / kBlockTilesBox; ++box)
        ptx::tensor_store(p.c, column0 + box * kBlockTilesBox, row0, to + box * kBoxBytes);
      ptx::store_commit();
    }
  }

  static __device__ __forceinline__ void sync_team(int team) {
    if (team == 0)
      sync_named<128, 1>();
    else
      sync_named<128, 2>();
  }
};

}  // namespace kernelpkg
