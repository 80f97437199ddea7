//! Random numbers that a seed repeats: splitmix64.

#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to `most`, both among them.
    pub(crate) fn between(&mut self, least: i64, most: i64) -> i64 {
        let span = u64::try_from(most - least).unwrap_or(0) + 1;
        least + i64::try_from(self.next() % span).unwrap_or(0)
    }

    /// True in so many of a thousand cases.
    pub(crate) fn per_mille(&mut self, chance: u32) -> bool {
        self.next() % 1000 < u64::from(chance)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        let most = i64::try_from(things.len()).unwrap_or(1) - 1;
        things[usize::try_from(self.between(0, most)).unwrap_or(0)]
    }
}
