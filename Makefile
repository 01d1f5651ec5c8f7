# `make quickstart` and `make test` each work as the first command after cloning: both make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
MODEL ?= models/edge/int8.tflite
TEST_PROCESSES ?= 2
RUN = TF_CPP_MIN_LOG_LEVEL=2 $(VENV)/bin/python -m

.PHONY: venv quickstart test coverage lint clean edge-bundle

venv: $(VENV)/installed

$(VENV)/installed: setup.py requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint requirements.lock --editable '.[train,dev]'
	@touch $@

# The folder appears under its name only when it is whole.
data/phantoms/README.txt: | venv
	$(RUN) ladnn_tf.data.phantom --out=data/phantoms

data/phantoms.csv: data/phantoms/README.txt
	$(RUN) ladnn_tf.data.manifest --covid_ct=data/phantoms --out=$@

# Phantoms, training, test: no data and no download beyond the packages.
quickstart: venv data/phantoms.csv
	$(RUN) ladnn_tf.train --flagfile=configs/quickstart.flags --run=runs/quickstart --overwrite
	$(RUN) ladnn_tf.evaluate --run=runs/quickstart --split=test
	@echo
	@echo "data:    data/phantoms (images, masks, annotations), data/phantoms.csv (manifest)"
	@echo "run:     runs/quickstart (model.keras, card.json, metrics.json, predictions, TensorBoard)"
	@echo "next:    $(VENV)/bin/python -m ladnn_tf.predict --run=runs/quickstart data/phantoms/images/CT_COVID/*1.png"
	@echo "         $(VENV)/bin/python -m ladnn_tf.explain --run=runs/quickstart --masks=data/phantoms/masks data/phantoms/images/CT_COVID/phantom-covid_1-*.png"

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(RUN) pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile

# The same with the coverage, which makes it a third slower.
coverage: lint
	$(RUN) pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --cov --cov-report=term

# One archive for boxes without internet; build/wheels keeps what was downloaded.
edge-bundle: venv
	$(RUN) export.edge_bundle --model="$(MODEL)" --out=dist --wheels=build/wheels

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .coverage
