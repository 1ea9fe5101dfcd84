"""Models of scikit-learn, LightGBM and XGBoost as their converters write them, served as `tabular`."""
