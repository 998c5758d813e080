#!/usr/bin/env bash
# The sweep of r1_gamma.yaml as a loop. Run it again to resume: finished runs do nothing. Further words are options of fit.
for gamma in 0 2 10; do
  for lr in 0.0002 0.0005; do
    for seed in 1 2; do
      unrender fit --config demo.yaml --model.r1_gamma=$gamma --model.generator_optimizer.lr=$lr --seed_everything=$seed \
        --run_dir runs/sweep/gamma$gamma-lr$lr-seed$seed "$@" || [ $? -lt 128 ] || exit 130  # only Ctrl-C stops the loop
    done
  done
done
