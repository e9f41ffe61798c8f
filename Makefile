# Everything runs in .venv, made on first use from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PACKAGE := .venv/package
DEVELOPMENT := .venv/development
# In the order of their names, long files come first and the many short ones last: no worker waits for another.
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all check docs baseline bert vit seed-appendix install clean
.PHONY: study-depth study-growth study-initializers study-placement study-policies study-default study-explain \
	study-explain-twelve study-grad-norms study-swap study-heads study-disturbance

install: $(DEVELOPMENT)

# The package with what it needs, and with what its tests and checks need. Most modules of the libraries are never imported,
# so each is compiled when it is, not here.
$(PACKAGE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e .
	touch $@

$(DEVELOPMENT): $(PACKAGE)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

# Train the default preset and its baseline, one core each; write a report of the first, and one that compares them.
demo: export OMP_NUM_THREADS = 1
demo: $(PACKAGE)
	mkdir -p runs
	$(BIN)/pli-train run baseline --quiet >runs/baseline.txt & tiny=$$($(BIN)/pli-train run) && wait $$! && \
		$(BIN)/pli-analyze report $$tiny --html && \
		$(BIN)/pli-analyze report $$(cat runs/baseline.txt) $$tiny --html runs/comparison.html

# The default tests: minutes on two cores.
test: install
	$(BIN)/pytest -q $(BESIDE)

# All tests, the long ones and those that need Chromium among them.
test-all: install
	$(BIN)/pytest -q -m "" $(BESIDE)

# Style, spelling, types, import directions.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site, in site/.
docs: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

# One experiment each: see `pli-train presets`.
baseline: install
	$(BIN)/pli-train run baseline
	$(BIN)/pli-analyze report --html

bert: install
	$(BIN)/pli-train run tiny-bert
	$(BIN)/pli-analyze report --html

vit: install
	$(BIN)/pli-train run tiny-vit
	$(BIN)/pli-analyze report --html

# Studies of reports/, each resumed where it was stopped; see reports/NAME/README.md.
study-depth: install
	$(BIN)/pli-train sweep reports/depth/base.toml --grid model.initial_layers=12,6,4,8,2,3,1 \
		--grid optim.lr=1e-2,5e-3,2e-2 --seeds 1 --no-baseline --budget 2e12 --workers 2 --threads 1 -o studies/depth

# Twelve layers, six, and four that grow to twelve in three ways, with equal FLOPs.
study-growth: EQUAL := --seeds 6 --set seed=1 --set train.compile=true --no-baseline --budget 1e13 --workers 2 --threads 1
study-growth: install
	$(BIN)/pli-train sweep figure-1 $(EQUAL) -o studies/twelve
	$(BIN)/pli-train sweep reports/growth/grown.toml $(EQUAL) -o studies/grown
	$(BIN)/pli-train sweep figure-1 --grid model.initial_layers=6 --set optim.lr=7e-3 $(EQUAL) -o studies/six
	$(BIN)/pli-train sweep reports/growth/grown.toml --set growth.optimizer_state=zero $(EQUAL) -o studies/grown-zero
	$(BIN)/pli-train sweep reports/stacking/grown.toml $(EQUAL) -o studies/stacked

# Eight new layers at half of training, initialized or placed in different ways.
study-initializers study-placement: study-%: install
	$(BIN)/pli-train sweep reports/$*/space.toml --sampler grid --no-baseline --budget 4e12 --workers 2 --threads 1 \
		-o studies/$*

# Eight combinations of optimizer state and learning rate at growth.
study-policies: install
	$(BIN)/pli-train sweep reports/policies/space.toml --sampler grid --no-baseline --budget 2e12 --workers 2 --threads 1 \
		-o studies/policies

# Runs that grow, and runs with the final depth from the start, whose layers are compared.
study-explain: EQUAL := --seeds 6 --set seed=71 --set train.compile=true --no-baseline --budget 1.9655e12 --workers 2 \
	--threads 1
study-explain: install
	$(BIN)/pli-train sweep tiny --set checkpoint.every=504 --set checkpoint.keep=9 $(EQUAL) -o studies/explain-grown
	$(BIN)/pli-train sweep baseline $(EQUAL) -o studies/explain-scratch

study-explain-twelve: EQUAL := --seeds 6 --set seed=11 --set train.compile=true --set checkpoint.every=58 --no-baseline \
	--budget 2e12 --workers 2 --threads 1
study-explain-twelve: install
	$(BIN)/pli-train sweep reports/growth/grown.toml $(EQUAL) -o studies/explain-twelve-grown
	$(BIN)/pli-train sweep figure-1 $(EQUAL) -o studies/explain-twelve-scratch

# Gradient norms of five depths, while the learning rate rises.
study-grad-norms: DEPTHS := --grid model.initial_layers=12,8,4,2,1 --seeds 6 --set seed=61 --set train.steps=158 \
	--set optim.warmup_ratio=1.0 --set optim.decay_ratio=0.0 --set train.grad_norms_every=1 --set train.eval_full=0 \
	--no-baseline --objective tokens --workers 2 --threads 1
study-grad-norms: install
	$(BIN)/pli-train sweep figure-1 $(DEPTHS) -o studies/grad-norms
	$(BIN)/pli-train sweep tiny-bert --set growth.schedule= $(DEPTHS) -o studies/grad-norms-bert

# Two layers swapped in one of ten, or in three of ten steps. The runs without swaps are those of study-default.
study-swap: SWAPS := --grid growth.swapping.probability=0.1,0.3 --seeds 4 --set seed=41 --set train.compile=true \
	--no-baseline --budget 1.9655e12 --workers 2 --threads 1
study-swap: study-default
	$(BIN)/pli-train sweep tiny $(SWAPS) -o studies/swap-grown
	$(BIN)/pli-train sweep baseline $(SWAPS) -o studies/swap-fixed

# Heads that grow from 4 to 12, with and without growth of the depth, and 12 and 4 heads from the start.
study-heads: EQUAL := --seeds 4 --set seed=81 --set train.compile=true --no-baseline --budget 1e12 --workers 2 --threads 1
study-heads: install
	$(BIN)/pli-train sweep reports/heads/grown.toml $(EQUAL) -o studies/heads
	$(BIN)/pli-train sweep reports/heads/layers.toml $(EQUAL) -o studies/heads-layers
	$(BIN)/pli-train sweep reports/heads/grown.toml --grid model.initial_heads=12,4 --set growth.schedule= $(EQUAL) \
		-o studies/heads-fixed

# One insertion at step 300, and runs without it: by position, initializer, noise, learning rate and depth.
study-disturbance: BASE := reports/disturbance/base.toml
study-disturbance: TOKENS := --no-baseline --objective tokens --budget 1024000 --workers 2 --threads 1
study-disturbance: FOUR := --seeds 4 --set seed=51 --set train.eval_full=0 $(TOKENS)
study-disturbance: THREE := --seeds 3 --set seed=51 --set train.eval_full=0 $(TOKENS)
study-disturbance: install
	$(BIN)/pli-train sweep reports/disturbance/space.toml --sampler grid $(TOKENS) -o studies/disturbance
	$(BIN)/pli-train sweep $(BASE) $(FOUR) -o studies/disturbance-twins
	$(BIN)/pli-train sweep $(BASE) --set growth.schedule=300@0 --set growth.initializer=identity \
		--set growth.learning_rate=rewarm-new $(FOUR) -o studies/disturbance-rewarm
	$(BIN)/pli-train sweep $(BASE) --set growth.schedule=300@3 --set growth.initializer=clone-noise \
		--grid growth.noise=0.1,0.3 $(THREE) -o studies/disturbance-noise
	$(BIN)/pli-train sweep $(BASE) --grid optim.lr=5e-3,2e-2 $(THREE) -o studies/disturbance-twins-rate
	$(BIN)/pli-train sweep $(BASE) --set growth.schedule=300@3 --grid optim.lr=5e-3,2e-2 $(THREE) -o studies/disturbance-rate
	$(BIN)/pli-train sweep $(BASE) --grid model.initial_layers=3,12 $(THREE) -o studies/disturbance-twins-depth
	$(BIN)/pli-train sweep $(BASE) --set model.initial_layers=3 --set growth.schedule=300@1 $(THREE) -o studies/disturbance-3
	$(BIN)/pli-train sweep $(BASE) --set model.initial_layers=12 --set growth.schedule=300@6 $(THREE) -o studies/disturbance-12

# The default preset, seven fixed depths, growth of depth or of sequences alone, and further levers, with equal FLOPs.
study-default: EQUAL := --set train.compile=true --no-baseline --budget 1.9655e12 --workers 2 --threads 1
study-default: SIX := --seeds 6 --set seed=41 $(EQUAL)
study-default: LONGER := [{at=0,operator="context",to=32},{at=0.3333,operator="context",to=128}]
study-default: install
	$(BIN)/pli-train sweep tiny $(SIX) -o studies/default
	$(BIN)/pli-train sweep reports/default/depth.toml --seeds 12 --set seed=41 $(EQUAL) -o studies/default-depth
	$(BIN)/pli-train sweep baseline --set model.initial_layers=4 --set 'growth.schedule=$(LONGER)' $(SIX) -o studies/default-longer
	for fixed in 4:12 3:6 6:6 2:3 8:3 1:3 12:3; do \
		$(BIN)/pli-train sweep baseline --set model.initial_layers=$${fixed%:*} --seeds $${fixed#*:} --set seed=41 $(EQUAL) \
			-o studies/default-$${fixed%:*}; \
	done
	for seed in 41 42 43 44 45 46; do for lever in gate:100 average:0.99; do \
		$(BIN)/python reports/default/levers.py $$lever studies/levers/$${lever%:*}-$$seed seed=$$seed train.steps=1428 \
			train.compile=true; \
	done; done

seed-appendix: install
	$(BIN)/pip install --quiet -c constraints.txt '.[hub]'
	$(BIN)/pli-train run seed-appendix
	$(BIN)/pli-analyze report --html

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
